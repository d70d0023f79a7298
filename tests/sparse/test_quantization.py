"""Quantisation: within its bound, exact where it says so."""

import pytest
import torch

from sparse import SparseError
from sparse.quantization import dequantize, quantize


def weights(magnitude=1.0):
    """(64, 32, 3, 3), channels of very different sizes."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 32, 3, 3, generator=generator) * torch.logspace(-6, 6, 64).view(-1, 1, 1, 1) * magnitude


@pytest.mark.parametrize("magnitude", [1.0, 1e-25, 1e25])
def test_error_is_at_most_half_a_scale(magnitude):
    weight = weights(magnitude)
    q, scale = quantize(weight)
    assert q.dtype == torch.int8 and q.shape == weight.shape and scale.shape == (64,)
    step = scale.double().view(-1, 1, 1, 1)
    assert ((q.double() * step - weight.double()).abs() <= step / 2).all()
    peak = weight.abs().amax(dim=(1, 2, 3))
    assert (scale.double() * 126.5 <= peak.double()).all()
    assert (q.int().abs().amax(dim=(1, 2, 3)) == 127).all()


def test_dequantized_values_are_exact_and_quantize_to_the_same():
    q, scale = quantize(weights())
    weight = dequantize(q, scale)
    assert torch.equal(weight.double(), q.double() * scale.double().view(-1, 1, 1, 1))
    again, same_scale = quantize(weight)
    assert torch.equal(again, q) and torch.equal(same_scale, scale)


def test_every_scale_is_its_own_quantization():
    """Each bfloat16 between two powers of two."""
    scale = torch.arange(128, 257).view(-1, 1) / 2**12
    _, found = quantize(torch.cat([scale * 127, -scale], dim=1))
    assert torch.equal(found, scale.to(torch.bfloat16).flatten())


def test_channels_of_zeros_and_of_tiny_values():
    weight = torch.zeros(3, 4)
    weight[1, 2] = 1e-40  # a subnormal number
    weight[2, 0] = -5.0
    q, scale = quantize(weight)
    assert scale[0] == 0 and not q[0].any()
    assert ((dequantize(q, scale) - weight).abs() <= scale.float()[:, None] / 2).all()
    assert dequantize(q, scale).isfinite().all()


@pytest.mark.parametrize(("shape", "channels"), [((0, 4), 0), ((4, 0), 4), ((5,), 5), ((), 1), ((1, 6, 2, 3, 3), 6)])
def test_shapes(shape, channels):
    """Of a modulated convolution, the second dimension are the output channels."""
    weight = torch.randn(shape)
    q, scale = quantize(weight)
    assert q.shape == weight.shape and len(scale) == channels
    assert dequantize(q, scale).shape == weight.shape


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(SparseError, match="not finite"):
        quantize(torch.tensor([[1.0, value]]))
