"""By tiles an image is what it is at once."""

import pytest
import torch

from model.errors import ModelError
from model.sampler import SamplingPlan, sample
from model.tiling import attends, sample_tiled
from model.tiling.plan import plan_tiles
from model.tiling.sampler import to_uint8

ONE_CALL = {"solver": "ddim", "start": 0.5}
CHAINS = {
    "ddim": {"solver": "ddim"},
    "noise at every step": {"solver": "ddpm"},
    "two steps back": {"solver": "dpm++", "start": 0.9},
    "back-projection": {"solver": "ddim", "eta": 0.5, "consistency": 2, "start": 0.6},
    "ends": {"solver": "ddpm", "prior_noise": 0.1, "decode": "ends"},
    "first": {"solver": "ddim", "decode": "first"},
}


def both_ways(network, lr, size, plan, tile, overlap, **options):
    """(3, H, W) uint8 at once, and by tiles."""
    at_once = to_uint8(sample(network, lr, size, plan, seeds=[3], **options))[0].cpu()
    return at_once, sample_tiled(network, lr, size, plan, seeds=[3], tile=tile, overlap=overlap, **options)


@pytest.mark.parametrize(("tile", "overlap"), [(1000, 0), (32, 32)], ids=["one tile", "four"])
@pytest.mark.parametrize("options", CHAINS.values(), ids=CHAINS)
def test_every_chain(network, picture, psnr, options, tile, overlap):
    plan = SamplingPlan.parse("uniform:2", 4, 20)
    at_once, by_tiles = both_ways(network, picture(12, 15), (48, 60), plan, tile, overlap, **options)
    assert by_tiles.dtype == torch.uint8 and by_tiles.shape == at_once.shape
    assert psnr(by_tiles, at_once) > 60


@pytest.mark.parametrize("size", [(120, 152), (118, 150), (101, 137)], ids=str)
def test_every_size(network, picture, psnr, size):
    """Also where a level's sides are rounded up and an LR pixel is no whole number of pixels; without a step along the
    borders of tiles."""
    tile, overlap = 64, 64
    plan = SamplingPlan.parse("none", 1, 20)
    at_once, by_tiles = both_ways(network, picture(30, 38), size, plan, tile, overlap, **ONE_CALL)
    assert psnr(by_tiles, at_once) > 60
    difference = by_tiles.float() - at_once.float()
    borders = {part.columns.core_start for part in plan_tiles(size, tile, overlap, 4)} - {0}
    steps = difference.diff(dim=2).abs().mean((0, 1))
    assert steps[[border - 1 for border in borders]].mean() < steps.mean() + 0.02


@pytest.mark.parametrize("size", [(120, 152), (240, 304), (118, 150), (45, 57)], ids=str)
def test_without_norms_one_pass_is_exact(local_network, picture, size, monkeypatch):
    """At the size to which the LR encoder enlarges, above and below, whatever the strips in which it does that."""
    monkeypatch.setattr("model.tiling.enlarged.STRIP_PIXELS", 38 * 7)
    plan, told = SamplingPlan.parse("none", 1, 20), []
    at_once = to_uint8(sample(local_network, picture(30, 38), size, plan, seeds=[3], **ONE_CALL))[0]
    options = {"tile": 32, "overlap": 32, "on_batch": lambda *n: told.append(n)}
    by_tiles = sample_tiled(local_network, picture(30, 38), size, plan, seeds=[3], **options, **ONE_CALL)
    assert (by_tiles.int() - at_once.int()).abs().max() <= 1
    assert len(told) == told[0][1] == len(plan_tiles(size, 32, 32, 4))


def test_moments_of_each_tile_would_not_do(network, picture, psnr, monkeypatch):
    """What the norms share is what makes it so: on its own, each tile is as another image."""
    plan, lr, size = SamplingPlan.parse("none", 1, 20), picture(30, 38), (120, 152)
    at_once = to_uint8(sample(network, lr, size, plan, seeds=[3], **ONE_CALL))[0]
    monkeypatch.setattr(
        "model.tiling.sampler.TiledChain.settle", lambda chain, group: chain.network.statistics.forget()
    )
    alone = sample_tiled(network, lr, size, plan, seeds=[3], tile=64, overlap=32, **ONE_CALL)
    assert psnr(alone, at_once) < 40


def test_batches_of_tiles(network, picture, psnr):
    """Several at once are what they are one by one, and are counted."""
    plan, lr, size, told = SamplingPlan.parse("uniform:2", 4, 20), picture(12, 16), (48, 64), []
    options = {"seeds": [0], "tile": 32, "overlap": 8, "solver": "ddim"}
    one_by_one = sample_tiled(network, lr, size, plan, **options)
    together = sample_tiled(
        network, lr, size, plan, **options, most_pixels=4 * 48**2, on_batch=lambda *n: told.append(n)
    )
    assert psnr(one_by_one, together) > 60
    assert [done for done, _ in told] == list(range(1, told[0][1] + 1))


def test_noise_is_one_field(network, picture):
    """Asked for whole, in the order in which it is asked for at once."""
    asked = {}
    plan, lr = SamplingPlan.parse("uniform:2", 4, 20), picture(10, 12)
    for name, function, options in (("whole", sample, {}), ("tiles", sample_tiled, {"tile": 32, "overlap": 8})):
        asked[name] = []

        def noise(i, shape, name=name):
            asked[name].append((i, shape))
            return torch.randn(shape)

        function(network, lr, (40, 48), plan, solver="ddpm", noise=noise, **options)
    assert asked["whole"] == asked["tiles"]


def test_what_is_refused(network, picture, tiny):
    plan, lr = SamplingPlan.parse("none", 1, 20), picture(10, 10)
    with pytest.raises(ModelError, match="tile"):
        sample_tiled(network, lr, (40, 40), plan, tile=0, overlap=8)
    with pytest.raises(FloatingPointError):
        sample_tiled(network, lr * float("nan"), (40, 40), plan, tile=32, overlap=8)
    assert attends(tiny.network) and not attends(network)


@pytest.mark.cuda
@pytest.mark.parametrize(("precision", "least"), [(None, 55), (torch.float16, 45)], ids=["float32", "float16"])
def test_on_a_gpu(network, picture, psnr, precision, least, exact_float32):
    """Tiles in half precision are near to the whole image in half precision, whose graphs and kernels are others."""
    plan, lr = SamplingPlan.parse("uniform:2", 4, 20), picture(40, 50).cuda()
    network.cuda()
    try:
        with torch.autocast("cuda", precision or torch.float16, enabled=precision is not None):
            at_once, by_tiles = both_ways(network, lr, (158, 198), plan, 64, 32, solver="ddim", start=0.6)
    finally:
        network.cpu()
    assert psnr(by_tiles, at_once) > least


@pytest.mark.cuda
def test_memory_of_a_gpu_is_that_of_a_tile(network, picture):
    peaks = []
    network.cuda()
    try:
        for side in (128, 256):
            torch.cuda.reset_peak_memory_stats()
            plan = SamplingPlan.parse("none", 1, 20)
            sample_tiled(
                network, picture(side, side).cuda(), (4 * side, 4 * side), plan, tile=192, overlap=32, **ONE_CALL
            )
            peaks.append(torch.cuda.max_memory_allocated())
    finally:
        network.cpu()
    assert peaks[1] < peaks[0] + 2 * 12 * 1024**2 * 1.1  # noise is drawn there, whole: 12 bytes a pixel
