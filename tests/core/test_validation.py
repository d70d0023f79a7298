"""Validation: what it writes is what it measured, each image once, whatever the batches and processes."""

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from core.config import changed
from core.errors import UserError
from core.metrics.image_metrics import sharpness, spectral_distance
from core.metrics.perceptual_metrics import PerceptualMetrics
from core.processes import Processes
from core.sampling.super_resolution import Sampling
from core.validation import CHAINS, COMPARED, write_pages
from core.validation import validate_all as validate_with

LOG = logging.getLogger("test.validation")  # no child of the project's, which `start_logging` silences
ALONE = Processes(0, 1, torch.device("cpu"))


def validate_all(network, config, *rest, **told):
    """Samples as the config says."""
    return validate_with(network, config, Sampling.of(config.sample, network.schedule), *rest, **told)


@pytest.fixture
def results(small_config):
    """The folder of the pictures and metrics."""
    return Path(small_config["path"]["root"]) / "small" / "results"


def pixels(file):
    return np.asarray(Image.open(file))


def without_times(entries):
    return [{key: value for key, value in entry.items() if key not in ("seconds", "first_batch")} for entry in entries]


def test_report_describes_the_files(small_network, small_config, results):
    report = validate_all(small_network, small_config, ALONE, 7, LOG)["val"]
    for n, entry in enumerate(report["per_image"]):
        sr, hr, lr = (pixels(results / kind / f"7_{n}_{kind}.png") for kind in ("sr", "hr", "lr"))
        truth = Image.open(Path(small_config["datasets"]["val"]["dataroot"]) / f"wave{n}.png")
        small = truth.resize((8, 8), Image.Resampling.BICUBIC)
        bicubic = np.asarray(small.resize((32, 32), Image.Resampling.BICUBIC))
        assert np.array_equal(hr, truth)
        assert np.array_equal(lr, small)
        assert (entry["index"], entry["name"], entry["seed"]) == (n, f"wave{n}", n)
        assert entry["psnr"] == pytest.approx(peak_signal_noise_ratio(hr, sr, data_range=255))
        assert entry["bicubic_psnr"] == pytest.approx(peak_signal_noise_ratio(hr, bicubic, data_range=255))
        assert -1 <= entry["ssim"] < entry["bicubic_ssim"] <= 1  # of an untrained network
        assert entry["lr_mse"] > entry["bicubic_lr_mse"] > 0
        assert entry["bicubic_sharpness"] == sharpness(bicubic, hr) < 1
        assert entry["sharpness"] == sharpness(sr, hr)
        assert entry["spectral_distance"] == spectral_distance(sr, hr, above=4 / 32)  # LR's Nyquist frequency
    assert report["images"] == 5
    assert report["mean"]["ssim"] == pytest.approx(np.mean([entry["ssim"] for entry in report["per_image"]]))


def test_metrics_file_tells_how_it_was_made(small_network, small_config, results):
    small_config = changed(small_config, {"sample.seed": 40})
    report = validate_all(small_network, small_config, ALONE, 7, LOG, density=0.15, checkpoint=Path("c/I7_E1"))["val"]
    report.pop("picture")
    written = json.loads((results / "metrics.json").read_text())
    assert written == report
    assert [entry["seed"] for entry in written["per_image"]] == [40, 41, 42, 43, 44]
    assert written["settings"]["seed"] == 40
    assert written["settings"]["key_steps"] == "uniform:2"
    assert (written["density"], written["step"], written["checkpoint"]) == (0.15, 7, "c/I7_E1")
    assert (written["config"], written["dataset"]["name"]) == ("small", "waves")
    assert written["versions"]["torch"] == torch.__version__
    assert not list(results.rglob(".*")), "temporary files are left"


def test_a_process_shows_the_image_itself(small_network, small_config, results):
    """Not its mirror image, which is sampled too."""
    shown = []
    for mirrored in (False, True):
        config = changed(small_config, {"sample.mirrored": mirrored})
        validate_all(small_network, config, ALONE, 7, LOG)
        shown.append(
            [pixels(results / kind / f"7_0_sr{end}.png") for kind, end in (("process", "_process"), ("sr", ""))]
        )
    (process, sr), (same, mean) = shown
    assert np.array_equal(process, same) and not np.array_equal(sr, mean)


def test_pictures(small_network, small_config, results):
    small_config = changed(small_config, {"sample.steps": 20, "sample.key_steps": "uniform:10"})
    report = validate_all(small_network, small_config, ALONE, 7, LOG)["val"]
    processes = sorted(file.name for file in (results / "process").iterdir())
    assert processes == [f"7_{n}_sr_process.png" for n in range(CHAINS)]
    for n in range(CHAINS):  # the chain ends in the result
        process = pixels(results / "process" / f"7_{n}_sr_process.png")
        assert process.shape[1] > 9 * 32
        assert np.array_equal(process[:, -32:], pixels(results / "sr" / f"7_{n}_sr.png"))
    comparison = pixels(results / "waves_comparison.png")
    assert np.array_equal(comparison, report["picture"])
    rows = min(5, COMPARED)
    assert comparison.shape[0] > rows * 32
    assert np.array_equal(comparison[-32:, -32:], pixels(results / "hr" / f"7_{rows - 1}_hr.png"))


def test_batches_change_nothing(small_network, small_config, results):
    one = validate_all(small_network, small_config, ALONE, 1, LOG)["val"]
    three = changed(small_config, {"datasets.val.batch_size": 3})
    three = validate_all(small_network, three, ALONE, 3, LOG)["val"]
    for n in range(5):
        difference = pixels(results / "sr" / f"1_{n}_sr.png").astype(int) - pixels(results / "sr" / f"3_{n}_sr.png")
        assert abs(difference).max() <= 1
    assert three["mean"]["psnr"] == pytest.approx(one["mean"]["psnr"], abs=1e-2)
    assert [entry["first_batch"] for entry in three["per_image"]] == [True] * 3 + [False] * 2


@pytest.mark.parametrize(("most", "said"), [(4, ["3 images"]), (1, ["3 images", "2 decoder calls"])])
def test_out_of_memory_halves_the_batches(small_network, small_config, results, little_memory, caplog, most, said):
    """`most` decoder calls fit at once; a group has two."""
    enough = validate_all(small_network, small_config, ALONE, 1, LOG)["val"]
    little_memory("core.validation", most)
    three = changed(small_config, {"datasets.val.batch_size": 3})
    with caplog.at_level(logging.INFO):
        halved = validate_all(small_network, three, ALONE, 3, LOG)["val"]
    lines = [line for line in caplog.messages if "out of memory" in line]
    assert [words in line for words, line in zip(said, lines, strict=True)] == [True] * len(said)
    assert halved["images"] == 5
    assert halved["mean"]["psnr"] == pytest.approx(enough["mean"]["psnr"], abs=1e-2)


def test_an_image_that_does_not_fit_into_memory(small_network, small_config, little_memory):
    little_memory("core.validation", 0)
    with pytest.raises(UserError, match=r"^datasets\.val: not even one image fits into memory"):
        validate_all(small_network, small_config, ALONE, 7, LOG)


@pytest.mark.parametrize(("mirrored", "steps"), [(False, 4), (True, 8)])
def test_a_long_chain_tells_its_time(small_network, small_config, monkeypatch, caplog, mirrored, steps):
    small_config = changed(small_config, {"sample.mirrored": mirrored})
    monkeypatch.setattr("core.sampling.chain_progress.LONG", 0)
    with caplog.at_level(logging.INFO):
        validate_all(small_network, small_config, ALONE, 7, LOG)
    assert any(f"step 2 of {steps}, about" in line for line in caplog.messages)
    assert any("waves: 4 of 5 images, about" in line for line in caplog.messages)


def test_every_set_has_files_of_its_own(small_network, small_config, results):
    two = {**small_config.datasets["val"], "data_len": 2, "name": "a/b"}
    small_config = changed(small_config, {"datasets.val_two": two})
    reports = validate_all(small_network, small_config, ALONE, 7, LOG)
    assert {key: report["images"] for key, report in reports.items()} == {"val": 5, "val_two": 2}
    assert len(list((results / "sr").glob("*.png"))) == 5
    assert len(list((results / "sr" / "val_two").glob("*.png"))) == 2
    assert (results / "val_two" / "a_b_comparison.png").is_file()
    assert json.loads((results / "val_two" / "metrics.json").read_text())["images"] == 2
    assert json.loads((results / "metrics.json").read_text())["images"] == 5


def test_density_is_counted_where_it_is_not_told(small_network, small_config):
    weights = small_network.prunable_parameters()
    weight = max(weights.values(), key=torch.numel)
    kept = weight.detach().clone()
    small_config = changed(small_config, {"datasets.val.data_len": 1})
    with torch.no_grad():
        weight.zero_()
        report = validate_all(small_network, small_config, ALONE, 7, LOG)["val"]
        weight.copy_(kept)
    total = sum(weight.numel() for weight in weights.values())
    assert report["density"] <= 1 - kept.numel() / total
    assert report["density"] == pytest.approx(1 - kept.numel() / total, abs=1e-3)


def test_judges_see_the_saved_images(small_network, small_config, results, monkeypatch):
    def brightness(image, reference=None):  # in place of LPIPS, and of Inception's features
        return float(image.mean()) if reference is None else float(image.mean()) - float(reference.mean())

    judges = PerceptualMetrics(brightness, brightness, {})
    monkeypatch.setattr("core.validation.load_perceptual_metrics", lambda device, lpips, fid: judges)
    given = []
    monkeypatch.setattr("core.validation.distances", lambda *sets: given.append(sets) or {"fid": len(given), "kid": -1})
    report = validate_all(small_network, small_config, ALONE, 7, LOG)["val"]
    sr, hr = ([brightness(pixels(results / kind / f"7_{n}_{kind}.png")) for n in range(5)] for kind in ("sr", "hr"))
    assert [entry["lpips"] for entry in report["per_image"]] == [a - b for a, b in zip(sr, hr, strict=True)]
    assert len(given) == 2 and sorted(report["of_sets"]) == ["bicubic_fid", "bicubic_kid", "fid", "kid"]
    assert given[report["of_sets"]["fid"] - 1][0] == sr and report["missing"] == {}


def test_weights_of_judges_that_are_not_there_are_one_line(small_network, small_config):
    for key in ("lpips_weights", "fid_weights"):
        with pytest.raises(UserError, match=r"nowhere\.pth: no such file"):
            validate_all(small_network, changed(small_config, {f"metrics.{key}": "nowhere.pth"}), ALONE, 7, LOG)


@pytest.mark.parametrize("wrong", ["missing", "damaged"])
def test_all_sets_are_looked_at_before_the_first_is_computed(wrong, small_network, small_config, results, tmp_path):
    folder = tmp_path / "two"
    if wrong == "damaged":
        folder.mkdir()
        (folder / "a.png").write_bytes(b"no image")
    two = {**small_config.datasets["val"], "dataroot": str(folder)}
    config = changed(small_config, {"datasets.val_two": two})
    advice = r"to leave this set out: --set datasets\.val_two=null$" if wrong == "missing" else "not an image"
    with pytest.raises(UserError, match=rf"^datasets\.val_two.*two.*{advice}"):
        validate_all(small_network, config, ALONE, 7, LOG)
    assert not list(results.rglob("*.png"))


def test_missing_images_of_the_only_set_are_one_line(small_network, small_config):
    config = changed(small_config, {"datasets.val.dataroot": "not_here"})
    with pytest.raises(UserError, match=r"^datasets\.val\.dataroot: there is no not_here") as raised:
        validate_all(small_network, config, ALONE, 7, LOG)
    assert "leave" not in str(raised.value)


def test_page_of_each_set_shows_what_was_validated(small_network, small_config, results, caplog):
    two = {**small_config.datasets["val"], "data_len": 2, "name": "a/b"}
    small_config = changed(small_config, {"datasets.val_two": two, "path.results_sr": "elsewhere/sr"})
    reports = validate_all(small_network, small_config, ALONE, 7, LOG)
    with caplog.at_level(logging.INFO, LOG.name):
        write_pages(small_config, LOG)
    for key, folder in (("val", results), ("val_two", results / "val_two")):
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert str(folder / "report.html") in caplog.text
        data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
        assert {image["name"] for image in data["images"]} == {entry["name"] for entry in reports[key]["per_image"]}
        assert all(image["layers"].keys() == {"lr", "hr", "bicubic", "sr0", "error0"} for image in data["images"])
        assert f"{reports[key]['mean']['psnr']:.2f}" in page
        assert page.count('class="frame') == 4 * min(reports[key]["images"], CHAINS)  # of 4 steps each


PROCESS = """
import json, logging, sys
import torch
from core.checkpoint import load_network
from core.config import check_config
from core.processes import Processes
from core.sampling.super_resolution import Sampling
from core.validation import validate_all

torch.set_num_threads(1)
checkpoint, config = sys.argv[1], check_config(json.loads(sys.argv[2]))
processes = Processes.from_environment("cpu")
network, _ = load_network(checkpoint, processes.device, config)
sampling = Sampling.of(config.sample, network.schedule)
reports = validate_all(network, config, sampling, processes, 7, logging.getLogger("smfdm"))
assert all(report["processes"] == 2 for report in reports.values())
print(json.dumps({key: report["per_image"] for key, report in reports.items()}))
processes.close()
"""


@pytest.mark.slow
def test_two_processes_count_each_image_once(small_network, small_checkpoint, small_config, results):
    one = {**small_config.datasets["val"], "data_len": 1}  # less than processes
    small_config = changed(small_config, {"datasets.val_one": one})
    alone = validate_all(small_network, small_config, ALONE, 7, LOG)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS, str(small_checkpoint), json.dumps(small_config.to_dict())]
    processes = [
        subprocess.Popen(command, env={**world, "RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for output in outputs:  # the same report on both
        reports = json.loads(output.splitlines()[-1])
        for key in ("val", "val_one"):
            expected = without_times(alone[key]["per_image"])
            assert without_times(reports[key]) == [pytest.approx(entry, rel=1e-3) for entry in expected]
    assert json.loads((results / "metrics.json").read_text())["images"] == 5
