"""The fixed pattern of images, against patterns that were put there, and the change of biases that takes one out."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.distillation.fixed_pattern import COUNTS, Response, correction, fixed_pattern, response, rms


def ramp(height, width):
    """(2, 3, H, W), each channel and image with slopes of its own."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    slopes = torch.arange(6.0).view(2, 3, 1, 1) / 10
    return slopes * y + (0.5 - slopes) * x


@pytest.mark.parametrize("period", [2, 3, 4, 5])
def test_the_pattern_on_a_ramp_is_found_without_its_mean(period):
    pattern = torch.randn(3, period, period, generator=torch.Generator().manual_seed(period)) / 10
    height, width = 8 * period + 1, 11 * period + period - 1  # not whole periods
    tiled = pattern.repeat(1, 9, 12)[:, :height, :width]
    found = fixed_pattern(ramp(height, width) + tiled, period)
    assert torch.allclose(found, pattern - pattern.mean(dim=(1, 2), keepdim=True), atol=1e-5)


def test_a_ramp_has_none():
    assert fixed_pattern(ramp(40, 33), 4).abs().max() < 1e-6


class Copies(TorchDispatchMode):
    """Notes what moves tensors to another device."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def __torch_dispatch__(self, function, types, given=(), named=None):
        made = function(*given, **(named or {}))
        if isinstance(made, torch.Tensor):
            devices = {tensor.device.type for tensor in given if isinstance(tensor, torch.Tensor)}
            if devices - {made.device.type}:
                self.noted.append(str(function))
        return made


@pytest.mark.parametrize("period", [4, 5])
def test_nothing_is_copied_from_the_host(period):
    """A CUDA graph could not do that. Meta stands for the device."""
    with Copies() as copies:
        assert fixed_pattern(torch.empty(2, 3, 40, 40, device="meta"), period).is_meta
        assert not copies.noted
        torch.ones(3).to("meta")
    assert copies.noted  # this one was


def test_the_smallest_image():
    assert fixed_pattern(ramp(20, 20), 4).shape == (3, 4, 4)


def test_rms_in_grey_levels():
    assert rms(torch.tensor([[[2.0, -2.0], [-2.0, 2.0]]]) / 255) == pytest.approx(2 / 255 * 127.5)


@pytest.fixture
def linear():
    """A bias, and what it does: measure() -> (pattern, images), their matrices and where they begin."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    bias, of_pattern, of_images = draw(6), draw(12, 6), draw(40, 6)
    pattern, errors = draw(12), draw(40)

    def measure():
        return (pattern + of_pattern @ bias).view(3, 2, 2), errors + of_images @ bias

    return bias, measure, of_pattern, of_images


def test_the_response_is_the_derivative_and_puts_the_bias_back(linear):
    bias, measure, of_pattern, of_images = linear
    before = bias.clone()
    found = response(measure, bias)
    assert torch.equal(bias, before)
    torch.testing.assert_close(found.pattern, of_pattern, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.images.float(), of_images.T, atol=5e-3, rtol=0)


def test_the_correction_is_the_least_squares_solution(linear):
    """By numpy, of both at once, where means over pixels weigh COUNTS and 1."""
    _, measure, of_pattern, of_images = linear
    pattern, errors = measure()
    weights = np.sqrt(np.concatenate([np.full(12, COUNTS / 12), np.full(40, 1 / 40)]))
    matrix = np.concatenate([of_pattern, of_images]) * weights[:, None]
    expected = np.linalg.lstsq(matrix, -np.concatenate([pattern.flatten(), errors]) * weights, rcond=None)[0]
    found = correction(pattern, errors, Response(of_pattern, of_images.T))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_values_that_act_alike_have_a_correction():
    """Two biases that do the same share it: no singular matrix."""
    of_pattern, of_images = torch.ones(4, 2), torch.ones(2, 8)
    found = correction(torch.ones(1, 2, 2), torch.ones(8), Response(of_pattern, of_images))
    torch.testing.assert_close(found, torch.tensor([-0.5, -0.5]), atol=1e-3, rtol=0)
