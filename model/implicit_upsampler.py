"""The implicit upsampler: from a feature map to any larger size, by an MLP over (nearest feature, offset to it).

The published MLP has two linear layers with nothing between them, so it is one affine map A·q + B·δ + c of the nearest
source feature q and the offset δ. A·q + c runs on the source grid before the pixels are copied (a quarter of the
operations at a factor of two), and B·δ separates into a term per row and a term per column.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.blocks import FusedLeakyReLU, in_full_precision


def _pixel_centres(n: int) -> Tensor:
    """Centres of n pixels that tile [-1, 1], in float32 and in this order of operations: it decides ties."""
    return -1 + 1 / n + (2 / n) * torch.arange(n).float()


@lru_cache(maxsize=512)
@torch.inference_mode(False)  # a cached table made while sampling must serve training too
def nearest_pixels(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor, bool]:
    """For each of `target` pixels of a line, the nearest of `source` pixels.

    Returns (index, offset, regular): (target,) source pixels; (target,) offsets from their centres,
    δ = (coord - coord_q)·source, in [-1, 1]; and whether they are the pixels that torch's "nearest-exact" takes, which
    differs in where it breaks ties.
    """
    coord = _pixel_centres(target)
    index = (((coord + 1) * source - 1) / 2).round().long().clamp(0, source - 1)
    offset = (coord - _pixel_centres(source)[index]) * source
    regular = torch.equal(index, (2 * torch.arange(target) + 1) * source // (2 * target))
    return index.to(device), offset.to(device), regular


@in_full_precision  # autocast would make float32 of the pixels
def nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """x (B, C, h, w) -> at each of (H, W) pixels the nearest source pixel, (B, C, H, W)."""
    rows, _, rows_regular = nearest_pixels(x.shape[2], size[0], x.device)
    columns, _, columns_regular = nearest_pixels(x.shape[3], size[1], x.device)
    if rows_regular and columns_regular:  # of the two, the one with a fast backward pass
        return F.interpolate(x, size=tuple(size), mode="nearest-exact")
    return x.index_select(2, rows).index_select(3, columns)


class ImplicitUpsampler(nn.Module):
    """Scale-adaptive modulation by the condition, then the affine map of (nearest feature, offset) at each pixel."""

    hidden = 256

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.activation = FusedLeakyReLU(channels)
        self.linear1 = nn.Linear(channels + 2, self.hidden)
        self.linear2 = nn.Linear(self.hidden, channels)

    def forward(self, h: Tensor, gain: Tensor, shift: Tensor, size: Sequence[int]) -> Tensor:
        """h (B, C, h, w), gain (B, C, 1, 1), shift (B, C, h, w), size (H, W) -> (B, C, H, W)."""
        h = self.activation(h * gain + shift)  # (B, C, h, w)
        on_feature, per_row, per_column = self.affine(h.shape[2:], size)
        h = nearest(F.conv2d(h, on_feature), size)  # (B, C, H, W)
        return h + (per_row.T[:, :, None] + per_column.T[:, None, :]).to(h.dtype)

    @in_full_precision
    def affine(self, source: Sequence[int], size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The two linear layers as one: A (C, C, 1, 1), for the features; and what the offsets from source pixels add
        at every row (H, C), with the bias, and at every column (W, C)."""
        weight = self.linear2.weight @ self.linear1.weight  # (C, C + 2)
        bias = self.linear2.weight @ self.linear1.bias + self.linear2.bias
        row_offset, column_offset = (nearest_pixels(source[n], size[n], weight.device)[1] for n in (0, 1))
        per_row = torch.outer(row_offset, weight[:, -2]) + bias
        per_column = torch.outer(column_offset, weight[:, -1])
        return weight[:, :-2, None, None], per_row, per_column
