"""Metrics against their formulas, written out here."""

import logging
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from core.metrics import load_lpips, lr_consistency, psnr, ssim


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


class FakeLpips(torch.nn.Module):
    """In place of the package: the distance of the tensors that it is given."""

    def __init__(self, net, verbose):
        super().__init__()
        assert net == "alex"

    def forward(self, image, reference):
        return (image - reference).abs().mean().reshape(1, 1, 1, 1)


def test_lpips_gets_images_in_minus_one_to_one(monkeypatch):
    load_lpips.cache_clear()
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=FakeLpips))
    metric = load_lpips(torch.device("cpu"), logging.getLogger("test"))
    black = np.zeros((8, 9, 3), np.uint8)
    assert metric(black, black + 255) == pytest.approx(2)
    load_lpips.cache_clear()


def test_without_lpips_there_is_one_notice(monkeypatch, caplog):
    load_lpips.cache_clear()
    monkeypatch.setitem(sys.modules, "lpips", None)  # as if it were not installed
    log = logging.getLogger("test")
    with caplog.at_level(logging.INFO):
        assert load_lpips(torch.device("cpu"), log) is None
        assert load_lpips(torch.device("cpu"), log) is None
    assert len(caplog.records) == 1
    assert "pip install lpips" in caplog.text
    load_lpips.cache_clear()
