"""Large images by tiles, from the command line and in a validation."""

import copy
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import core.sampling.tiling
from core.checkpoint.files import TrainingState, save_checkpoint
from core.config import changed, check_config
from core.errors import UserError
from core.processes import Processes
from core.sampling.chain_progress import TileProgress
from core.sampling.memory import Fitting
from core.sampling.super_resolution import Sampling
from core.sampling.tiling import Tiles, tiles_for
from core.validation import validate_all
from infer import main
from model import build_network
from tests.core.conftest import SMALL


@pytest.fixture(scope="module")
def local_config():
    """Of a network that does not attend."""
    config = copy.deepcopy(SMALL)
    config["model"]["unet"] |= {"attn_res": [], "mid_attention": False}
    return check_config(config)


@pytest.fixture(scope="module")
def local_network(local_config):
    torch.manual_seed(0)
    return build_network(local_config.model).eval()


@pytest.fixture
def infer(local_network, local_config, tmp_path, make_image, capsys):
    """infer(*options) -> (exit code, stdout, stderr, pixels of the result, as int, or None) for an image of 18x14."""
    prefix, weights = tmp_path / "I3_E1", local_network.state_dict()
    save_checkpoint(prefix, local_config, TrainingState(weights, weights, step=3))
    make_image(18, 14).save(tmp_path / "photo.png")

    def run(*options):
        out = tmp_path / "out"
        arguments = ["-r", str(prefix), "-i", str(tmp_path / "photo.png"), "-o", str(out), "--device", "cpu"]
        code = main([*arguments, "--scale", "4", *options])
        result = out / "photo.png"
        return code, *capsys.readouterr(), np.asarray(Image.open(result)).astype(int) if result.exists() else None

    return run


def little_memory(monkeypatch, most):
    """Memory for no more than so many pixels of the result at once."""
    enough = core.sampling.super_resolution.sample, core.sampling.super_resolution.sample_tiled

    def at_once(network, lr, size, *rest, **options):
        if len(lr) * size[0] * size[1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return enough[0](network, lr, size, *rest, **options)

    def by_tiles(network, lr, size, *rest, most_pixels, **options):
        if most_pixels > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return enough[1](network, lr, size, *rest, most_pixels=most_pixels, **options)

    monkeypatch.setattr("core.sampling.super_resolution.sample", at_once)
    monkeypatch.setattr("core.sampling.super_resolution.sample_tiled", by_tiles)


@pytest.mark.parametrize("options", [["--tile", "32"], ["--tile", "16", "--overlap", "40"]], ids=" ".join)
def test_tiles_make_the_same_image(infer, options):
    at_once, by_tiles = infer("--tile", "0"), infer(*options)
    assert at_once[0] == by_tiles[0] == 0 and by_tiles[3].shape == (56, 72, 3)
    assert abs(by_tiles[3] - at_once[3]).mean() < 0.5 and abs(by_tiles[3] - at_once[3]).max() <= 8


def test_out_of_memory_makes_tiles_and_then_smaller_ones(infer, monkeypatch):
    at_once = infer()[3]
    monkeypatch.setattr(core.sampling.tiling, "AT_ONCE_CPU", 64**2)
    monkeypatch.setattr(core.sampling.tiling, "FEWEST", 16**2)
    little_memory(monkeypatch, 48**2)
    code, stdout, stderr, image = infer("--overlap", "8")
    assert (code, stderr) == (0, "")
    assert [pixels in stdout for pixels in ("4,096 pixels at once", "2,048 pixels", "1,024 pixels")] == [
        True,
        True,
        False,
    ]
    assert abs(image - at_once).mean() < 1
    little_memory(monkeypatch, 100)
    code, _, stderr, _ = infer("--overlap", "8")
    assert code == 1 and "out of memory at 72x56" in stderr and stderr.count("\n") == 1


def test_wrong_tiles(infer, small_network, small_config):
    with pytest.raises(SystemExit) as stop:
        infer("--tile", "some")
    assert stop.value.code == 2
    settings = small_config.sample.replace(tile=128)
    assert tiles_for(small_network, (128, 128), settings, 1) is None  # one tile is enough
    with pytest.raises(UserError, match="attends"):
        tiles_for(small_network, (512, 512), settings, 1)
    assert tiles_for(small_network, (5000, 5000), settings.replace(tile="auto"), 1) is None


def test_automatic_tiles(local_network, local_config):
    """Only where an image with all its decoder calls would be too large; then windows are of the size of the device."""
    auto = local_config.sample
    assert tiles_for(local_network, (1024, 1024), auto, 1) is None
    for size, calls in (((1025, 1024), 1), ((1024, 1024), 2), ((8192, 8192), 1)):
        assert tiles_for(local_network, size, auto, calls) == Tiles(768 - 64, 32, 768**2)
    assert tiles_for(local_network, (8192, 8192), auto.replace(tile=0), 1) is None
    assert tiles_for(local_network, (8192, 8192), auto.replace(tile=200, overlap=50), 1)[:2] == (200, 50)
    assert tiles_for(local_network, (64, 64), auto, 1, most_pixels=128**2)[:2] == (64, 32)


def test_without_norms_tiles_see_more_and_are_larger(local_network, local_config):
    """They are computed once instead of twice, and nothing else makes their borders fit."""
    unet = local_config.model.unet.replace(norm_groups=0)
    network = build_network(local_config.model.replace(unet=unet), initialised=False)
    assert tiles_for(network, (8192, 8192), local_config.sample, 1) == Tiles(1152 - 128, 64, 1152**2)


def test_networks_that_attend_halve_decoder_calls(small_network, local_network, local_config):
    said = []
    sampling = Sampling.of(local_config.sample, local_network.schedule)
    fits = {network: Fitting(1, sampling, said.append) for network in (small_network, local_network)}
    assert all(fitting.shrink(1, network) for network, fitting in fits.items())
    assert ["decoder calls" in line for line in said] == [True, False] and "tiles" in said[1]


def test_validation_by_tiles(local_network, small_config, tmp_path):
    reports = {}
    for tile in (0, 16):
        config = changed(small_config, {"name": f"tile{tile}", "sample.tile": tile, "sample.overlap": 16})
        sampling = Sampling.of(config.sample, local_network.schedule)
        processes, log = Processes(0, 1, torch.device("cpu")), logging.getLogger()
        reports[tile] = validate_all(local_network, config, sampling, processes, 0, log)["val"]["per_image"]
        assert (tmp_path / "experiments" / f"tile{tile}" / "results" / "process" / "0_0_sr_process.png").exists()
    psnr = [[entry["psnr"] for entry in reports[tile]] for tile in (0, 16)]
    assert psnr[0] == pytest.approx(psnr[1], abs=0.1)


def test_progress_where_no_terminal_is():
    """As of a chain, for each image anew."""
    now, said = 0.0, []
    sampling = SimpleNamespace(chains_of_a_stage=1)
    progress = TileProgress(sampling, said.append, clock=lambda: now)
    for _ in range(2):  # images
        for done in range(1, 11):
            now += 30
            progress(done, 10)
    assert len(said) == 18 and said[:9] == said[9:]
    assert said[0] == "batch of tiles 1 of 10, about 4.5 min left"


def test_progress_of_an_image_and_its_mirror_image():
    """Is that of one work."""
    now, said = 0.0, []
    sampling = SimpleNamespace(chains_of_a_stage=2)
    progress = TileProgress(sampling, said.append, clock=lambda: now)
    for _ in range(2):  # images
        for done in [*range(1, 6)] * 2:
            now += 30
            progress(done, 5)
    assert [line.split(",")[0] for line in said] == [f"batch of tiles {n} of 10" for n in range(1, 10)] * 2
    assert said[5] == "batch of tiles 6 of 10, about 2.0 min left"
