"""The fixed pattern of images, against patterns that were put there, and the change of biases that takes one out."""

import pytest
import torch

from model.fixed_pattern import correction, fixed_pattern, response, rms


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


def test_the_smallest_image():
    assert fixed_pattern(ramp(20, 20), 4).shape == (3, 4, 4)


def test_rms_in_grey_levels():
    assert rms(torch.tensor([[[2.0, -2.0], [-2.0, 2.0]]]) / 255) == pytest.approx(2 / 255 * 127.5)


def test_response_and_correction_of_a_linear_pattern():
    generator = torch.Generator().manual_seed(0)
    matrix, bias = torch.randn(12, 12, generator=generator), torch.randn(12, generator=generator)
    start = bias.clone()

    def pattern():
        return (matrix @ bias).view(3, 2, 2)

    found = response(pattern, bias)
    assert torch.equal(bias, start) and torch.allclose(found, matrix, atol=1e-3)
    bias += correction(pattern(), found, rtol=1e-6)
    assert pattern().abs().max() < 1e-2


def test_what_has_little_influence_is_left_alone():
    influence = torch.diag(torch.tensor([1.0, 0.5, 0.01]))
    assert torch.allclose(correction(torch.ones(3, 1, 1), influence), torch.tensor([-1.0, -2.0, 0.0]), atol=1e-6)
