"""Eight bits a weight: a whole number from -127 to 127, times a scale that its output channel shares."""

import math

import torch
from torch import Tensor

from sparse.errors import SparseError
from sparse.layer import weight_shape

# Scales are bfloat16, rounded up. With this limit the largest weight of a channel always becomes ±127, so that what was
# quantised before has the same scales and the same whole numbers again.
LARGEST_RATIO = 127.49


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """q, int8 of the weight's shape, and the scale of each output channel, bfloat16 (n_out,).

    |weight - q·scale| ≤ scale/2, and scale ≤ max|channel|/126.5 where that is above 1e-38 (below, bfloat16 is coarser).
    A channel of zeros has the scale 0. Raises SparseError where a value is not finite.
    """
    rows = _channels_as_rows(weight.float())
    if not rows.isfinite().all():
        raise SparseError("values that are not finite")
    peak = rows.abs().amax(dim=1) if rows.numel() else rows.new_zeros(len(rows))
    scale = _round_up_to_bfloat16(peak / LARGEST_RATIO)
    divisor = scale.float().where(scale > 0, torch.ones(()))
    return (rows / divisor[:, None]).round().to(torch.int8).view(weight.shape), scale


def dequantize(q: Tensor, scale: Tensor) -> Tensor:
    """q·scale, float32 of the shape of q; exact, as 7 bits times 8 are 15."""
    return (_channels_as_rows(q) * scale.float()[:, None]).view(q.shape)


def count_channels(weight: Tensor) -> int:
    """How many scales a weight has, one for each output channel."""
    return math.prod(weight_shape(weight)[:1])


def _channels_as_rows(weight: Tensor) -> Tensor:
    n_out = count_channels(weight)
    return weight.reshape(n_out, weight.numel() // max(1, n_out))


def _round_up_to_bfloat16(x: Tensor) -> Tensor:
    """From float32, finite and not negative, to the least bfloat16 that is not below it."""
    nearest = x.to(torch.bfloat16)
    next_bits = nearest.view(torch.int16) + 1
    return nearest.where(nearest.float() >= x, next_bits.view(torch.bfloat16))
