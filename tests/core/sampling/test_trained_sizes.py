"""Results are made at the sizes that a network learnt, and reduced; of larger magnifications in two stages."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

import core.sampling.super_resolution
import infer
from core.config import changed, load_config
from core.faces.detection import Face
from core.faces.enhancer import FaceEnhancer
from core.inference import upscale
from core.processes import Processes
from core.sampling.super_resolution import Sampling, as_input, reduced, super_resolve
from core.sampling.trained_sizes import Stage, TrainedSizes
from core.validation import validate_all
from data.tensors import to_image, to_tensor

ALONE = Processes(0, 1, torch.device("cpu"))
ONE_STAGE = TrainedSizes(4)
PAIRS = frozenset({(16, 128), (32, 128), (64, 128), (32, 256), (64, 256)})
FACES = TrainedSizes(8, (128, 256), 64, pairs=PAIRS)
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
        ((32, 32), (100, 100), (128, 128)),
        ((24, 24), (192, 192), (192, 192)),  # 256 would be more than 8 times as large
        ((24, 24), (144, 144), (192, 192)),
        ((24, 24), (48, 48), (192, 192)),  # no training had 24→128
        ((17, 17), (128, 128), (136, 136)),
        ((40, 40), (100, 100), (128, 128)),  # 8 times would be more than any
        ((40, 40), (130, 130), (256, 256)),
        ((31, 31), (200, 200), (248, 248)),
        ((20, 15), (132, 99), (160, 120)),
        ((12, 12), (48, 48), (96, 96)),
    ],
)
def test_the_next_size_that_was_trained(lr, size, made_at):
    assert FACES.stages(size, lr) == [Stage(made_at, size)]


@pytest.mark.parametrize(
    ("lr", "size", "first", "between"),
    [
        ((16, 16), (256, 256), (128, 128), (64, 64)),
        ((16, 12), (240, 180), (128, 96), (64, 48)),
        ((24, 24), (200, 200), (192, 192), (64, 64)),  # 8 times as large, as it would be made by itself
        ((31, 31), (249, 249), (248, 248), (64, 64)),
        ((12, 12), (128, 128), (96, 96), (64, 64)),
    ],
)
def test_a_larger_magnification_takes_two_stages(lr, size, first, between):
    longest = 128 if max(size) <= 128 else 256
    second = tuple(side * longest // max(size) for side in size)
    assert FACES.stages(size, lr) == [Stage(first, between), Stage(second, size)]


def test_a_magnification_that_floats_do_not_hold():
    """For some sides, r / l times l is less than r in floats: r is still the usual size, in one stage."""
    off = [(lr, hr) for lr in range(8, 129) for hr in range(lr, 513) if hr / lr * lr < hr]
    assert off
    for lr, hr in off[:20]:
        assert TrainedSizes(hr / lr, (2 * hr,), 2 * lr).stages((hr, hr), (lr, lr)) == [Stage((hr, hr), (hr, hr))]


def test_the_second_stage_may_make_more_than_was_trained():
    assert FACES.stages((300, 300), (16, 16)) == [Stage((128, 128), (64, 64)), Stage((300, 300), (300, 300))]


def test_the_first_stage_makes_the_most_it_can():
    three = TrainedSizes(8, (64, 128, 256), 100)
    assert three.stages((256, 256), (16, 16)) == [Stage((128, 128), (100, 100)), Stage((256, 256), (256, 256))]


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
        ((85, 61), (128, 100), (340, 244)),  # another shape
        ((100, 60), (380, 228), (400, 240)),
        ((100, 60), (384, 230), (384, 230)),  # near ×4
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
        (FACES, (64, 64), (257, 257)),  # larger than any, but not many times
        (FACES, (16, 16), (16, 256)),  # the first stage would make fewer rows than there are
        (TrainedSizes(8, (64, 128), 16), (16, 16), (200, 200)),  # no larger LR image
        (TrainedSizes(4, (32, 128), 16), (16, 16), (128, 128)),
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
        ("faces_16_128_one_call", FACES._replace(pairs=PAIRS | {(40, 128), (48, 256)})),
        ("faces_16_128_small_one_call", FACES._replace(pairs=PAIRS - {(64, 256)})),
        ("faces_16_128_release", TrainedSizes(8, (128,), 16, pairs=frozenset({(16, 128)}))),
        ("faces_16_128", TrainedSizes(8)),  # learns every size
        ("demo", TrainedSizes(4)),
        ("photos_x4_one_call", PHOTOS),
        ("general_x4", TrainedSizes(4)),  # the same, of crops
    ],
)
def test_what_configs_train(name, trained, pytestconfig):
    assert TrainedSizes.of(load_config(pytestconfig.rootpath / "config" / f"{name}.yaml")) == trained


def test_sets_of_the_other_kind_do_not_count(pytestconfig):
    config = load_config(pytestconfig.rootpath / "config" / "faces_16_128_one_call.yaml")
    pairs = frozenset({(16, 128), (32, 128), (40, 128), (64, 128)})
    expected = TrainedSizes(8, (128,), 64, pairs=pairs)
    assert TrainedSizes.of(changed(config, {"datasets.train_large.use_crop": True})) == expected


def test_the_usual_magnification_was_drawn(pytestconfig):
    config = load_config(pytestconfig.rootpath / "config" / "photos_x4_one_call.yaml")
    sizes = {"datasets.train.sizes": [[16, 128, 1], [32, 64, 1]]}
    trained = TrainedSizes.of(changed(config, sizes))
    assert trained == TrainedSizes(4, magnifications=(2, 8))  # the network still knows the scale by 4
    assert trained.stages((300, 300), (100, 100)) == [Stage((800, 800), (300, 300))]


def test_without_a_training_nothing_is_known(small_config):
    """As of published checkpoints, of which one section at most is known."""
    assert TrainedSizes.of(small_config) == TrainedSizes(4)
    images = {"name": "faces", "l_resolution": 8, "r_resolution": 32, "batch_size": 2}
    assert TrainedSizes.of(changed(small_config, {"datasets.train": images})) == TrainedSizes(4)


@pytest.fixture
def lr():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def levels(sr):
    """The levels, 0 to 255, of each channel of a result."""
    return (sr if sr.dtype == torch.uint8 else (sr + 1) * 127.5).numpy().astype(np.float32)


def test_is_reduced_as_pillow_does_it(small_network, small_config, lr):
    sampling = Sampling.of(small_config.sample, small_network.schedule)
    whole = super_resolve(small_network, lr, (32, 24), sampling, [5, 6], TrainedSizes(4))
    smaller = super_resolve(small_network, lr, (20, 15), sampling, [5, 6], TrainedSizes(4, (32,), 8))
    assert smaller.shape == (2, 3, 20, 15)
    assert np.abs(levels(smaller) - by_pillow(levels(whole), (20, 15))).max() < 1e-3


def by_pillow(images, size):
    """(B, C, H, W) levels, reduced channel by channel."""
    channels = [
        Image.fromarray(channel).resize(size[::-1], Image.Resampling.BICUBIC) for channel in np.concatenate(images)
    ]
    return np.stack([np.asarray(channel) for channel in channels]).reshape(*images.shape[:2], *size).clip(0, 255)


def test_levels_of_tiles_are_reduced_too(lr):
    whole = ((torch.nn.functional.interpolate(lr / 2, (32, 24)) + 1) * 127.5).round().to(torch.uint8)
    smaller = reduced(whole, (20, 15))
    assert smaller.dtype == torch.uint8 and smaller.shape == (2, 3, 20, 15)
    assert np.abs(levels(smaller) - by_pillow(levels(whole), (20, 15))).max() < 1.01  # Pillow rounds the levels
    assert reduced(whole, (32, 24)) is whole
    torch.testing.assert_close(to_tensor(to_image(whole[0])), as_input(whole)[0])
    assert as_input(lr) is lr


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


def test_a_cascade_tells_of_both_its_stages(small_network, small_config, lr):
    sampling, seen = Sampling.of(small_config.sample, small_network.schedule), []
    trained = TrainedSizes(4, (32, 64), 16)
    super_resolve(small_network, lr, (64, 64), sampling, [5, 6], trained, lambda order, t, x, x0: seen.append(x0.shape))
    assert seen == [(2, 3, 32, 32)] * 4 + [(2, 3, 64, 64)] * 4
    assert sampling.chains(trained, (64, 64), lr.shape[2:]) == 2


# ---------------------------------------------------------------------------------------------------------------------
# All that samples goes by it.


@pytest.fixture
def made_at(monkeypatch):
    """The sizes at which networks make images."""
    sizes, make = [], core.sampling.super_resolution.Sampler.at
    monkeypatch.setattr(core.sampling.super_resolution.Sampler, "at", lambda *a: sizes.append(tuple(a[2])) or make(*a))
    return sizes


@pytest.fixture
def trained(trained_on):
    """(config, file) of a network whose training made whole images of 64 pixels."""
    return trained_on(r_resolution=64)


def test_infer_and_upscale(trained, made_at, make_image, tmp_path, run_main):
    make_image(8, 8).save(tmp_path / "a.png")
    command = ["-r", trained[1], "-i", tmp_path / "a.png", "--size", 20, "--device", "cpu"]
    assert run_main(infer.main, *command, "-o", tmp_path / "out")[0] == 0
    [image] = upscale(make_image(8, 8), network=trained[1], scale=2.5, device="cpu")
    assert made_at == [(64, 64), (64, 64)] and image.size == (20, 20)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), np.asarray(image))
    assert run_main(infer.main, *command, "-o", tmp_path / "own", "--no-trained-sizes")[0] == 0
    assert made_at[2:] == [(20, 20)]


def test_short_memory_is_told_with_the_size_that_was_made(trained, make_image, tmp_path, run_main, little_memory):
    make_image(8, 8).save(tmp_path / "a.png")
    little_memory("core.inference.files", 0)
    command = ["-r", trained[1], "-i", tmp_path / "a.png", "-o", tmp_path / "out", "--device", "cpu"]
    code, _, errors = run_main(infer.main, *command, "--size", 20)
    assert code == 1 and "out of memory at 64x64; --no-trained-sizes makes 20x20 at once, and takes less" in errors
    assert "out of memory at 64x64; a smaller --scale" in run_main(infer.main, *command, "--size", 64)[2]


def test_validation(trained, made_at, small_network):
    config = changed(trained[0], {"datasets.val.r_resolution": 16})
    sampling = Sampling.of(config.sample, small_network.schedule)
    validate_all(small_network, config, sampling, ALONE, 3, logging.getLogger("test"))
    assert set(made_at) == {(64, 64)}


def test_faces_in_photographs(trained, made_at, make_image):
    enhancer = FaceEnhancer(trained[1], torch.device("cpu"), {})
    photo = make_image(60, 60)
    enhancer.make(photo, photo.resize((120, 120)), Face(20, 20, 20))
    assert set(made_at) == {(64, 64)}
