"""Metrics against their formulas, written out here."""

import math

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.filters import gaussian
from skimage.metrics import structural_similarity

from core.metrics.image_metrics import (
    lr_consistency,
    luma,
    mean_and_deviation,
    measure,
    psnr,
    sharpness,
    spectral_distance,
    ssim,
)


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (24, 31, 3), dtype=np.uint8)
    image = np.clip(reference + rng.normal(0, 25, reference.shape), 0, 255).astype(np.uint8)
    return image, reference


def test_psnr_is_the_formula(pair):
    error = np.mean((pair[0].astype(float) - pair[1]) ** 2)
    assert psnr(*pair) == pytest.approx(10 * math.log10(255**2 / error))


def test_psnr_of_one_level_and_of_equal_images():
    black = np.zeros((16, 16, 3), np.uint8)
    assert psnr(black + 1, black) == pytest.approx(20 * math.log10(255))
    assert psnr(black, black) == math.inf


def test_ssim_is_the_formula(pair):
    x = np.arange(-5, 6)
    line = np.exp(-(x**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def local_mean(a):
        return (np.lib.stride_tricks.sliding_window_view(a, (11, 11)) * window).sum(axis=(-2, -1))

    values = []
    for a, b in zip(*(np.moveaxis(image.astype(float), 2, 0) for image in pair), strict=True):
        mean_a, mean_b = local_mean(a), local_mean(b)
        var_a, var_b = local_mean(a * a) - mean_a**2, local_mean(b * b) - mean_b**2
        covariance = local_mean(a * b) - mean_a * mean_b
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
        values.append(np.mean(likeness / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))))
    assert ssim(*pair) == pytest.approx(np.mean(values), abs=1e-9)
    assert 0.3 < ssim(*pair) < 0.99
    assert ssim(pair[1], pair[1]) == pytest.approx(1)


def test_ssim_of_an_image_smaller_than_its_window():
    assert math.isnan(ssim(*np.zeros((2, 10, 40, 3), np.uint8)))


def test_lr_consistency_counts_from_0_to_1():
    image, lr = np.full((32, 24, 3), 101, np.uint8), np.full((8, 6, 3), 100, np.uint8)
    assert lr_consistency(image, lr) == pytest.approx(1 / 255**2)
    assert lr_consistency(image, lr + 1) == pytest.approx(0, abs=1e-20)


def test_lr_consistency_downsamples_as_pillow_does(pair):
    image, lr = pair[0], pair[1][:6, :8]
    planes = [Image.fromarray(image[:, :, c].astype(np.float32)).resize((8, 6), Image.BICUBIC) for c in range(3)]
    error = np.mean((np.stack(planes, axis=2).astype(float) - lr) ** 2) / 255**2
    assert lr_consistency(image, lr) == pytest.approx(error, rel=1e-4)


def grey(plane):
    """(H, W) of whole numbers -> the same in three channels."""
    return np.repeat(np.uint8(np.asarray(plane))[:, :, None], 3, axis=2)


def test_equal_images_are_as_sharp_and_of_the_same_spectrum(pair):
    assert sharpness(pair[1], pair[1]) == 1
    assert spectral_distance(pair[1], pair[1]) == 0


def test_blur_shows_in_sharpness_and_spectrum(pair):
    planes = [gaussian(pair[1], sigma, channel_axis=2, preserve_range=True) for sigma in (0.4, 0.6, 0.9, 1.4)]
    blurred = [np.uint8(np.rint(plane)) for plane in planes]
    ratios = [sharpness(image, pair[1]) for image in blurred]
    distances = [spectral_distance(image, pair[1], above=0.1) for image in blurred]
    assert ratios[0] < 1 and ratios == sorted(ratios, reverse=True) and ratios[-1] < 0.3
    assert distances[0] > 0 and distances == sorted(distances) and distances[-1] > 20


def test_contrast_scales_sharpness_and_shifts_the_spectrum():
    change = np.random.default_rng(0).integers(-50, 51, (64, 48, 3))
    low, high = np.uint8(128 + change), np.uint8(128 + 2 * change)
    assert sharpness(low, high) == pytest.approx(1 / 2)
    assert sharpness(high, low) == pytest.approx(2)
    assert spectral_distance(low, high) == pytest.approx(20 * math.log10(2), rel=1e-3)
    assert spectral_distance(high, low) == pytest.approx(20 * math.log10(2), rel=1e-3)


def test_sharpness_of_waves_is_that_of_central_differences():
    x = np.arange(2048)
    slow, fast = (128 + 100 * np.sin(2 * np.pi * x / period + 1) for period in (32, 8))
    slow, fast = (grey(np.tile(np.rint(wave), (4, 1))) for wave in (slow, fast))
    expected = math.sin(2 * np.pi / 32) / math.sin(2 * np.pi / 8)  # (sin(ω(x+1)) - sin(ω(x-1)))/2 = cos(ωx)·sin(ω)
    assert sharpness(slow, fast) == pytest.approx(expected, rel=0.02)
    assert sharpness(slow.transpose(1, 0, 2), fast.transpose(1, 0, 2)) == sharpness(slow, fast)


def test_spectral_distance_of_a_wave_from_a_flat_image():
    n, k = 32, 8
    wave, flat = grey(np.tile([128, 178, 128, 78], (n, n // 4))), grey(np.full((n, n), 128))
    frequencies = [(i, j) for i in range(-n // 2, n // 2) for j in range(-n // 2, n // 2)]

    def decibels(ring, window):  # of the power at (0, ±ring) and (±1, ±ring): the Hann window is n/2 at 0, n/4 at ±1
        size = sum(round(math.hypot(*frequency)) == ring for frequency in frequencies)
        power = 2 * (50 / 2 * window) ** 2 * ((n / 2) ** 2 + 2 * (n / 4) ** 2) / (3 * n / 8) ** 2 / size
        return 10 * math.log10(12 * power + 1)  # over that of rounding

    told = [decibels(k - 1, n / 4), decibels(k, n / 2), decibels(k + 1, n / 4)]
    for above, count, seen in ((0, 16, told), (k / n, 8, told[2:]), ((k + 1) / n, 7, [])):
        expected = math.sqrt(sum(level**2 for level in seen) / count)
        assert spectral_distance(wave, flat, above) == pytest.approx(expected, abs=1e-6)


def test_sharpness_and_spectrum_where_there_is_none():
    flat, small = np.full((16, 16, 3), 7, np.uint8), np.zeros((1, 9, 3), np.uint8)
    assert math.isnan(sharpness(flat, flat)) and spectral_distance(flat, flat) == 0
    assert math.isnan(sharpness(small, small)) and math.isnan(spectral_distance(small, small))
    assert math.isnan(spectral_distance(flat, flat, above=0.5))


def test_luma_of_pure_colours(pair):
    colours = {(255, 0, 0): 16 + 65.481, (0, 255, 0): 16 + 128.553, (0, 0, 255): 16 + 24.966}
    colours |= {(0, 0, 0): 16, (255, 255, 255): 235}
    assert luma(np.uint8([list(colours)]))[0] == pytest.approx(list(colours.values()))
    assert luma(pair[0]) == pytest.approx(rgb2ycbcr(pair[0])[:, :, 0])


def test_measures_of_one_level_in_rgb_and_y():
    grey = np.full((32, 40, 3), 100, np.uint8)
    measures = measure(grey + 1, grey)
    assert measures["psnr"] == pytest.approx(20 * math.log10(255))
    assert measures["psnr_y"] == pytest.approx(20 * math.log10(255 * 255 / 219))  # a level of grey is 219/255 of Y
    green = measure(grey + np.uint8([0, 1, 0]), grey)
    assert green["psnr"] == pytest.approx(20 * math.log10(255) + 10 * math.log10(3))
    assert green["psnr_y"] == pytest.approx(20 * math.log10(255 * 255 / 128.553))


def test_measures_are_those_of_scikit_image(pair):
    inner = [array[4:-4, 4:-4] for array in pair]
    planes = [rgb2ycbcr(array)[:, :, 0] for array in inner]
    options = {"data_range": 255, "gaussian_weights": True, "use_sample_covariance": False}
    measures = measure(*pair, border=4)
    assert measures["ssim"] == pytest.approx(structural_similarity(*inner, channel_axis=2, **options))
    assert measures["ssim_y"] == pytest.approx(structural_similarity(*planes, **options))
    assert measures["psnr_y"] == pytest.approx(10 * math.log10(255**2 / np.mean((planes[0] - planes[1]) ** 2)))


def test_border_is_left_out_of_psnr_and_ssim(pair):
    framed = pair[1].copy()
    framed[:3], framed[-3:], framed[:, :3], framed[:, -3:] = 0, 255, 0, 255
    assert measure(framed, pair[1])["psnr"] < 20
    measures = measure(framed, pair[1], border=3)
    assert measures["psnr"] == measures["psnr_y"] == math.inf and measures["ssim"] == pytest.approx(1)
    assert measures["sharpness"] == sharpness(framed, pair[1])  # of whole images
    assert measure(framed, pair[1], border=2)["psnr"] < 30


def test_lr_tells_which_frequencies_are_invented(pair):
    lr = pair[1][:6, :8]
    measures, without = measure(*pair, lr), measure(*pair)
    assert measures["lr_mse"] == lr_consistency(pair[0], lr) and "lr_mse" not in without
    assert measures["spectral_distance"] == spectral_distance(*pair, above=0.5 * 6 / 24)
    assert without["spectral_distance"] == spectral_distance(*pair)


def test_mean_and_deviation_of_what_is_a_number():
    entries = [
        {"psnr": 20.0, "sharpness": 1.0, "ssim": math.nan},
        {"psnr": 24.0, "sharpness": math.nan, "ssim": math.nan},
    ]
    mean, deviation = mean_and_deviation(entries)
    assert (mean["psnr"], deviation["psnr"], mean["sharpness"], deviation["sharpness"]) == (22, 2, 1, 0)
    assert math.isnan(mean["ssim"]) and math.isnan(deviation["ssim"])
    mean, deviation = mean_and_deviation([{"psnr": math.inf}, {"psnr": 20.0}])
    assert mean["psnr"] == math.inf and math.isnan(deviation["psnr"])
