"""Degraded LR images, against kernels, deviations and JPEG files that are known otherwise."""

import io
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from data import Draw, SRDataset, train_loader
from data.degradation import (
    Degradation,
    blur,
    degrade,
    draw_kernel,
    draw_size,
    gaussian_kernel,
    gaussian_noise,
    jpeg,
    poisson_noise,
)

EVERYTHING = Degradation(
    blur_prob=1, resize_prob=(1, 1, 1), resize_modes=("area", "bilinear", "bicubic"), noise_prob=1, jpeg_prob=1,
    jpeg_last_prob=0.5,
)  # fmt: skip


def rng(seed=0):
    return np.random.default_rng(seed)


def flat(level, side=200):
    return Image.new("RGB", (side, side), level)


def through_jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def difference(image, other):
    return np.abs(np.asarray(image, float) - np.asarray(other, float)).max()


# Kernels and blur.


@pytest.mark.parametrize(("along", "across", "angle"), [(1.5, 1.5, 0.3), (3.0, 1.0, 0.0), (3.0, 1.0, np.pi / 6)])
def test_a_kernel_has_the_moments_of_its_gaussian(along, across, angle):
    kernel = gaussian_kernel(41, along, across, angle)
    assert kernel.dtype == np.float32 and kernel.sum() == pytest.approx(1, abs=1e-5) and kernel.min() >= 0
    y, x = np.mgrid[-20:21, -20:21]
    axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    covariance = axes @ np.diag([along**2, across**2]) @ axes.T
    measured = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
    np.testing.assert_allclose(measured, covariance, atol=0.02)


def test_isotropic_kernels_are_as_wide_along_any_axis():
    y, x = np.mgrid[-10:11, -10:11]

    def widths(kernel):
        covariance = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
        return np.sqrt(np.linalg.eigvalsh(covariance))

    ratios = {}
    for name, kernel_prob in {"iso": (1, 0), "aniso": (0, 1)}.items():
        how = Degradation(kernel_prob=kernel_prob, blur_sigma=(0.8, 2.4))
        ratios[name] = [np.divide(*widths(draw_kernel(how, rng(seed)))) for seed in range(50)]
    assert min(ratios["iso"]) > 0.999 and np.median(ratios["aniso"]) < 0.8


def test_sigma_is_drawn_from_its_range():
    how = Degradation(kernel_prob=(1, 0), blur_sigma=(1.0, 2.0), blur_kernel_size=31)
    squares = np.arange(-15, 16) ** 2
    sigmas = [np.sqrt((draw_kernel(how, rng(seed)).sum(0) * squares).sum()) for seed in range(200)]
    assert 1.0 <= min(sigmas) < 1.05 and 1.95 < max(sigmas) <= 2.0 and np.mean(sigmas) == pytest.approx(1.5, abs=0.06)


def test_blur_of_an_impulse_is_the_kernel():
    image = np.zeros((40, 50, 3), np.uint8)
    image[19, 23] = 255, 128, 0
    kernel = gaussian_kernel(21, 1.2, 0.7, 0.4)
    blurred = np.asarray(blur(Image.fromarray(image), kernel), float)
    around = blurred[19 - 10 : 19 + 11, 23 - 10 : 23 + 11]
    for channel, level in enumerate((255, 128, 0)):
        np.testing.assert_allclose(around[:, :, channel], level * kernel, atol=0.51)  # rounded to 8 bits
    assert blurred.sum() == around.sum()


def test_blur_reflects_at_the_border(picture):
    """As computed on a larger image that is reflected by hand."""
    image, kernel = picture(37, 30), gaussian_kernel(7, 2.0, 1.0, 0.5)
    wide = np.pad(np.asarray(image), ((9, 9), (9, 9), (0, 0)), "reflect")
    assert difference(np.asarray(blur(Image.fromarray(wide), kernel))[9:-9, 9:-9], blur(image, kernel)) <= 1
    assert difference(blur(flat((7, 90, 255), 12), gaussian_kernel(21, 3, 3)), flat((7, 90, 255), 12)) == 0


# Noise.


@pytest.mark.parametrize("gray", [False, True])
def test_gaussian_noise_has_its_deviation(gray):
    noise = np.asarray(gaussian_noise(flat((128, 128, 128)), 7.0, gray, rng()), float) - 128
    assert noise.std() == pytest.approx(7.0, rel=0.02) and abs(noise.mean()) < 0.2
    correlation = np.corrcoef(noise.reshape(-1, 3).T)[0, 1]
    assert correlation == pytest.approx(1.0 if gray else 0.0, abs=0.02)


@pytest.mark.parametrize("level", [16, 100, 160])
@pytest.mark.parametrize("gray", [False, True])
def test_poisson_noise_grows_with_the_root_of_the_level(level, gray):
    noise = np.asarray(poisson_noise(flat((level,) * 3), 1.5, gray, rng()), float) - level
    assert noise.std() == pytest.approx(1.5 * np.sqrt(level), rel=0.03) and abs(noise.mean()) < 0.3
    assert np.corrcoef(noise.reshape(-1, 3).T)[0, 1] == pytest.approx(1.0 if gray else 0.0, abs=0.02)


def test_noise_is_clipped():
    noisy = np.asarray(gaussian_noise(flat((255, 0, 128)), 30.0, False, rng()))
    assert noisy[:, :, 0].max() == 255 and noisy[:, :, 1].min() == 0  # and nothing wraps around
    assert noisy[:, :, 0].min() > 80 and noisy[:, :, 1].max() < 175


# JPEG, sizes, order.


def test_jpeg_is_pillows_own(picture):
    image = picture(48, 40)
    for quality in (30, 75, 95):
        assert difference(jpeg(image, quality), through_jpeg(image, quality)) == 0
    qualities = Degradation(jpeg_prob=1, jpeg_range=(40, 42))
    made = {degrade(image, image.size, qualities, rng(seed)).tobytes() for seed in range(40)}
    assert made == {through_jpeg(image, quality).tobytes() for quality in (40, 41, 42)}


def test_lr_saved_as_jpeg(picture):
    """The example of the documentation: LR by bicubic, and then a file of quality 75."""
    hr = picture(128, 128)
    expected = through_jpeg(hr.resize((32, 32), Image.Resampling.BICUBIC), 75)
    assert difference(degrade(hr, (32, 32), Degradation(jpeg_prob=1, jpeg_range=(75, 75)), rng()), expected) == 0
    before = through_jpeg(hr, 75).resize((32, 32), Image.Resampling.BICUBIC)
    first = Degradation(jpeg_prob=1, jpeg_range=(75, 75), jpeg_last_prob=0)
    assert difference(degrade(hr, (32, 32), first, rng()), before) == 0


def test_with_its_defaults_lr_is_bicubic(picture):
    hr = picture(128, 128)
    assert difference(degrade(hr, (32, 32), Degradation(), rng()), hr.resize((32, 32), Image.Resampling.BICUBIC)) == 0


@pytest.mark.parametrize(
    ("mode", "method"),
    [("area", Image.Resampling.BOX), ("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)],
)
def test_resize_modes(picture, mode, method):
    hr = picture(128, 128)
    assert difference(degrade(hr, (32, 32), Degradation(resize_modes=(mode,)), rng()), hr.resize((32, 32), method)) == 0


def test_sizes_of_the_first_resize():
    sizes = {}
    for way, name in enumerate(("up", "down", "keep")):
        how = Degradation(resize_prob=tuple(float(way == n) for n in range(3)), resize_range=(0.5, 1.5))
        sizes[name] = [draw_size((100, 60), how, rng(seed)) for seed in range(200)]
    assert 100 <= min(sizes["up"])[0] < 102 and 148 < max(sizes["up"])[0] <= 150
    assert 50 <= min(sizes["down"])[0] < 52 and 98 < max(sizes["down"])[0] <= 100
    assert set(sizes["keep"]) == {(100, 60)}
    assert all(abs(height - 0.6 * width) <= 1 for width, height in sizes["up"] + sizes["down"])
    shares = [draw_size((100, 60), Degradation(resize_prob=(1, 2, 1)), rng(seed))[0] for seed in range(1000)]
    assert np.mean([side < 100 for side in shares]) == pytest.approx(0.5, abs=0.05)


def test_blur_comes_first_then_the_resize_noise_and_jpeg(picture):
    """Each step by hand, in the order of the paper, with ranges of one value."""
    how = Degradation(
        blur_prob=1, kernel_prob=(1, 0), blur_sigma=(2.0, 2.0), resize_prob=(0, 1, 0), resize_range=(0.5, 1.0),
        noise_prob=1, gaussian_noise_prob=1, noise_range=(0.0, 0.0), jpeg_prob=1, jpeg_range=(50, 50),
    )  # fmt: skip
    hr = picture(128, 128)
    results = [degrade(hr, (32, 32), how, rng(seed)) for seed in range(8)]
    expected = set()
    for side in range(64, 129):
        smaller = blur(hr, gaussian_kernel(21, 2.0, 2.0)).resize((side, side), Image.Resampling.BICUBIC)
        expected.add(through_jpeg(smaller.resize((32, 32), Image.Resampling.BICUBIC), 50).tobytes())
    assert all(result.tobytes() in expected for result in results)


def test_noise_is_added_at_the_size_of_the_first_resize():
    """Of HR's size, it is averaged by the resize to LR; of LR's size, it stays as it is."""
    noise = {"noise_prob": 1, "gaussian_noise_prob": 1, "noise_range": (20.0, 20.0), "resize_modes": ("area",)}
    hr, size = flat((128, 128, 128), 800), (200, 200)
    averaged = degrade(hr, size, Degradation(**noise), rng())
    whole = degrade(hr, size, Degradation(**noise, resize_prob=(0, 1, 0), resize_range=(0.2499, 0.2501)), rng(3))
    assert np.std(averaged) == pytest.approx(20 / 4, rel=0.05)
    assert np.std(whole) < 20.5


@pytest.mark.parametrize("step", ["blur_prob", "noise_prob", "jpeg_prob"])
def test_probabilities(picture, step):
    hr, seeds = picture(64, 64), range(60)
    clean = hr.resize((16, 16), Image.Resampling.BICUBIC)
    ranges = {"blur_sigma": (2.0, 3.0), "noise_range": (9.0, 9.0), "poisson_scale_range": (2.0, 3.0)}

    def changed(probability):
        how = Degradation(**ranges, **{step: probability})
        return [difference(degrade(hr, (16, 16), how, rng(seed)), clean) > 0 for seed in seeds]

    assert not any(changed(0)) and all(changed(1)) and 15 < sum(changed(0.5)) < 45


def test_the_same_generator_the_same_image(picture):
    hr = picture(128, 128)
    images = [degrade(hr, (32, 32), EVERYTHING, rng(seed)) for seed in (1, 1, 2)]
    assert difference(images[0], images[1]) == 0 < difference(images[0], images[2])
    assert all(image.size == (32, 32) and image.mode == "RGB" for image in images)


# In the dataset.


@pytest.fixture
def spec(photos):
    """Crops of photographs, degraded by everything at once."""
    degradation = {each.name: getattr(EVERYTHING, each.name) for each in fields(EVERYTHING)}
    sizes = {"l_resolution": 8, "r_resolution": 32, "use_crop": True, "augment": True}
    return {"dataroot": str(photos), **sizes, "degradation": degradation}


def test_training_degrades_lr_alone_and_by_its_draw(spec):
    degraded = SRDataset(spec, train=True)
    clean = SRDataset({key: value for key, value in spec.items() if key != "degradation"}, train=True)
    for draw in (Draw(2, 5), Draw(2, 6), Draw(3, 5 << 64)):
        sample, other = degraded[draw], clean[draw]
        assert torch.equal(sample["hr"], other["hr"]) and not torch.equal(sample["lr"], other["lr"])
        assert torch.equal(sample["lr"], degraded[draw]["lr"])
    assert not torch.equal(degraded[Draw(2, 5)]["lr"], degraded[Draw(2, 6)]["lr"])


def test_readers_and_processes_change_nothing(spec):
    images = SRDataset(spec, train=True)

    def lr(count, **options):
        return torch.cat([batch["lr"] for _, batch in zip(range(count), train_loader(images, **options), strict=False)])

    whole = lr(3, batch_size=4, seed=1)
    assert torch.equal(whole, lr(3, batch_size=4, seed=1, workers=2))
    halves = [lr(3, batch_size=2, seed=1, rank=rank, world=2).view(3, 2, 3, 8, 8) for rank in range(2)]
    assert torch.equal(whole, torch.cat(halves, dim=1).flatten(0, 1))


def test_validation_degrades_by_the_index(spec):
    images = SRDataset(spec, train=False)
    again = SRDataset(spec, train=False)
    assert all(torch.equal(images[n]["lr"], again[n]["lr"]) for n in (3, 1, 2))
    clean = SRDataset({key: value for key, value in spec.items() if key != "degradation"}, train=False)
    changes = [images[n]["lr"] - clean[n]["lr"] for n in range(2)]
    assert changes[0].abs().max() > 0 and not torch.allclose(changes[0], changes[1])
    assert torch.equal(images[0]["hr"], clean[0]["hr"])


def test_validation_of_lr_saved_as_jpeg(spec, photos):
    images = SRDataset({**spec, "degradation": {"jpeg_range": [75, 75], "jpeg_prob": 1}}, train=False)
    hr = Image.fromarray(((images[4]["hr"].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())
    expected = through_jpeg(hr.resize((8, 8), Image.Resampling.BICUBIC), 75)
    levels = ((images[4]["lr"].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    assert difference(levels, expected) == 0


def test_stored_lr_images_are_not_degraded_but_made_anew(tmp_path, picture):
    """A degradation begins at HR, also where LR images are stored beside it; sizes are still those promised."""
    for folder, side in (("hr_32", 32), ("lr_8", 8)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (side, side)).save(tmp_path / folder / "a.png")
    picture(32, 32).save(tmp_path / "hr_32" / "a.png")
    spec = {"dataroot": str(tmp_path), "l_resolution": 8, "r_resolution": 32, "degradation": {}}
    assert SRDataset(spec, train=False)[0]["lr"].std() > 0.05
    del spec["degradation"]
    assert SRDataset(spec, train=False)[0]["lr"].std() == 0


def test_whole_images_are_degraded_at_the_size_of_hr(tmp_path, picture):
    """So that a blur of σ pixels is the same for photographs of any size."""
    picture(64, 64).save(tmp_path / "a.png")
    degradation = {"blur_prob": 1, "kernel_prob": [1, 0], "blur_sigma": [2.0, 2.0]}
    spec = {"dataroot": str(tmp_path), "l_resolution": 8, "r_resolution": 32, "degradation": degradation}
    hr = picture(64, 64).resize((32, 32), Image.Resampling.BICUBIC)
    expected = blur(hr, gaussian_kernel(21, 2.0, 2.0)).resize((8, 8), Image.Resampling.BICUBIC)
    levels = ((SRDataset(spec, train=False)[0]["lr"].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    assert difference(levels, expected) <= 1
