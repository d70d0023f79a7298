"""Results are made at the sizes that a network learnt, and reduced; of larger magnifications in two stages."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.config import changed, load_config
from core.sampling import Sampling, super_resolve
from core.trained_sizes import Stage, TrainedSizes

ONE_STAGE = TrainedSizes(4)
FACES = TrainedSizes(8, (128, 256), 64)
PHOTOS = TrainedSizes(4, magnifications=(1.5, 2, 3, 4))


@pytest.mark.parametrize(
    ("lr", "size", "made_at"),
    [
        ((16, 16), (128, 128), (128, 128)),
        ((16, 16), (48, 48), (128, 128)),
        ((64, 64), (80, 80), (128, 128)),
        ((64, 64), (129, 129), (256, 256)),
        ((32, 32), (200, 200), (256, 256)),  # 8 times as large, as it was trained
        ((16, 12), (64, 48), (128, 96)),
        ((16, 12), (50, 37), (128, 95)),
        ((64, 1), (100, 1), (128, 1)),
    ],
)
def test_the_next_size_that_was_trained(lr, size, made_at):
    assert FACES.stages(size, lr) == [Stage(made_at, size)]


@pytest.mark.parametrize(
    ("lr", "size", "between"),
    [((16, 16), (256, 256), (64, 64)), ((31, 31), (200, 200), (64, 64)), ((16, 12), (240, 180), (64, 48))],
)
def test_a_larger_magnification_takes_two_stages(lr, size, between):
    first, second = (tuple(side * longest // max(size) for side in size) for longest in (128, 256))
    assert FACES.stages(size, lr) == [Stage(first, between), Stage(second, size)]


@pytest.mark.parametrize(
    ("lr", "size", "made_at"),
    [
        ((100, 60), (400, 240), (400, 240)),
        ((100, 60), (350, 210), (400, 240)),
        ((100, 60), (250, 150), (400, 240)),
        ((100, 60), (125, 75), (400, 240)),
        ((100, 60), (300, 180), (300, 180)),
        ((85, 61), (128, 92), (128, 92)),  # 1.5 times, but for rounding
        ((85, 61), (127, 91), (127, 91)),
        ((85, 61), (126, 91), (340, 244)),
        ((85, 61), (338, 242), (340, 244)),
        ((85, 61), (100, 246), (100, 246)),
        ((100, 60), (200, 180), (400, 240)),  # another shape
        ((100, 60), (500, 300), (500, 300)),  # more than it learnt
    ],
)
def test_of_crops_the_usual_magnification(lr, size, made_at):
    assert PHOTOS.stages(size, lr) == [Stage(made_at, size)]


@pytest.mark.parametrize(
    ("trained", "lr", "size"),
    [
        (FACES, (12, 12), (48, 48)),  # 128 would be more than 8 times as large
        (FACES, (64, 64), (257, 257)),  # larger than any
        (TrainedSizes(8, (128,), 16), (16, 16), (200, 200)),
        (TrainedSizes(8, (128, 256), 16), (16, 16), (200, 200)),  # 16 pixels are what there is already
        (TrainedSizes(4), (16, 16), (48, 48)),
    ],
)
def test_where_nothing_serves_it_is_made_as_it_is(trained, lr, size):
    assert trained.stages(size, lr) == [Stage(size, size)]


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("faces_16_128_one_call", FACES),
        ("faces_16_128_small_one_call", FACES),
        ("faces_16_128_release", TrainedSizes(8, (128,), 16)),
        ("faces_16_128", TrainedSizes(8)),  # learns every size
        ("demo", TrainedSizes(4)),
        ("photos_x4_one_call", PHOTOS),
        ("general_x4", TrainedSizes(4)),  # the same, of crops
    ],
)
def test_what_configs_train(name, trained, pytestconfig):
    assert TrainedSizes.of(load_config(pytestconfig.rootpath / "config" / f"{name}.yaml")) == trained


def test_without_a_training_nothing_is_known(small_config):
    """As of published checkpoints, of which one section at most is known."""
    assert TrainedSizes.of(small_config) == TrainedSizes(4)
    images = {"name": "faces", "l_resolution": 8, "r_resolution": 32, "batch_size": 2}
    assert TrainedSizes.of(changed(small_config, {"datasets.train": images})) == TrainedSizes(4)


@pytest.fixture
def lr():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("tile", [0, 16])
def test_is_reduced_as_pillow_does_it(small_network, small_config, lr, tile):
    settings = small_config.sample.replace(tile=tile)
    sampling = Sampling.of(settings, small_network.schedule)
    whole = super_resolve(small_network, lr, (32, 24), sampling, [5, 6], TrainedSizes(4))
    smaller = super_resolve(small_network, lr, (20, 15), sampling, [5, 6], TrainedSizes(4, (32,), 8))
    assert smaller.shape == (2, 3, 20, 15) and smaller.dtype == whole.dtype
    for made, reduced in zip(whole, smaller, strict=True):
        for before, after in zip(levels(made), levels(reduced), strict=True):
            expected = Image.fromarray(before).resize((15, 20), Image.Resampling.BICUBIC)
            assert np.abs(after - np.asarray(expected).clip(0, 255)).max() < (
                1.01 if tile else 1e-3
            )  # Pillow rounds the levels


def levels(sr):
    """The levels, 0 to 255, of each channel of a result."""
    return (sr if sr.dtype == torch.uint8 else (sr + 1) * 127.5).numpy().astype(np.float32)


def test_a_cascade_is_two_samplings(small_network, small_config, lr):
    """As one would do it by hand, with Pillow between them."""
    sampling = Sampling.of(small_config.sample, small_network.schedule)

    def made(lr, size, trained=ONE_STAGE):
        return super_resolve(small_network, lr, size, sampling, [5, 6], trained)

    between = [
        np.stack([np.asarray(Image.fromarray(c).resize((16, 16), Image.Resampling.BICUBIC)) for c in image.numpy()])
        for image in made(lr, (32, 32))
    ]
    by_hand = made(torch.from_numpy(np.stack(between)).clamp(-1, 1), (64, 64))
    torch.testing.assert_close(made(lr, (64, 64), TrainedSizes(4, (32, 64), 16)), by_hand, atol=1e-4, rtol=0)


def test_can_be_turned_off(small_network, small_config, lr):
    own, off = (
        super_resolve(small_network, lr, (20, 20), Sampling.of(settings, small_network.schedule), [5, 6], trained)
        for settings, trained in (
            (small_config.sample, TrainedSizes(4)),
            (changed(small_config, {"sample.trained_sizes": False}).sample, TrainedSizes(4, (32,), 8)),
        )
    )
    assert torch.equal(own, off)
