"""Runs on disk, as a validation leaves them: real images, really measured."""

import json

import numpy as np
import pytest
from PIL import Image

from core.metrics.image_metrics import measure
from core.report.json_files import write_json
from data.images import resize


@pytest.fixture
def make_run(tmp_path, make_image):
    """make_run(name, noise, images=6, size=(48, 40), ...) -> the folder of the results of a run whose images are noisy,
    the later the more."""

    def make(name, noise, images=6, size=(48, 40), seed=0, names="image{}", chains=1):
        folder = tmp_path / name / "results"
        entries = []
        for kind in ("sr", "hr", "lr", "process"):
            (folder / kind).mkdir(parents=True)
        for n in range(images):
            truth = make_image(*size, n)
            lr = resize(truth, (size[0] // 4, size[1] // 4))
            rng = np.random.default_rng([seed, n])
            sr = np.clip(truth + rng.normal(0, noise * (n + 1), np.shape(truth)), 0, 255).astype(np.uint8)
            bicubic = resize(lr, size)
            for kind, image in (("sr", Image.fromarray(sr)), ("hr", truth), ("lr", lr)):
                image.save(folder / kind / f"7_{n}_{kind}.png")
            if n < chains:
                strip = Image.new("RGB", (2 * size[0] + 4, size[1]), "white")
                strip.paste(bicubic, (0, 0))
                strip.paste(Image.fromarray(sr), (size[0] + 4, 0))
                strip.save(folder / "process" / f"7_{n}_sr_process.png")
            of_bicubic = measure(np.asarray(bicubic), np.asarray(truth), np.asarray(lr))
            measures = measure(sr, np.asarray(truth), np.asarray(lr))
            measures |= {f"bicubic_{key}": value for key, value in of_bicubic.items()}
            entries.append(
                {"index": n, "name": names.format(n), "seed": n, **measures, "seconds": 0.5, "first_batch": False}
            )
        report = {
            "config": name,
            "step": 7,
            "dataset": {"key": "val", "name": "waves"},
            "sampling": f"ddim, noise {noise}",
            "chain": {"steps": 4, "key_steps": [0, 2], "shown": [1, 2], "timesteps": [14, 4]},
            "settings": {"seed": 0, "steps": 4, "noise": noise},
            "device": "a CPU",
            "full_config": {"name": name, "sample": {"steps": 4}},
            "files": {kind: kind for kind in ("sr", "hr", "lr", "process")},
            "images": images,
            "mean": {},
            "deviation": {},
            "of_sets": {},
            "missing": {"lpips": "needs weights", "fid": "needs weights"},
            "per_image": entries,
        }
        write_json(report, folder / "metrics.json")
        return folder

    return make


@pytest.fixture
def report_of():
    """The JSON of a run's folder."""
    return lambda folder: json.loads((folder / "metrics.json").read_text())
