"""The implicit upsampler with its affine map kept, and two sweeps over the pixels: before the convolution and after."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from model.fast.inference_copy import kept_for_inference
from model.fast.pointwise import can_spread, modulate, spread
from model.implicit_upsampler import ImplicitUpsampler, nearest, nearest_pixels


class FastImplicitUpsampler(ImplicitUpsampler):
    def forward(self, h: Tensor, gain: Tensor, shift: Tensor, size: Sequence[int]) -> Tensor:
        """h (K·B, C, h, w), gain (B, C, 1, 1), shift (B, C, h, w), size (H, W) -> (K·B, C, H, W)."""
        source, size = tuple(h.shape[2:]), tuple(size)
        on_feature, per_row, per_column = self.affine_in(h.dtype, source, size)
        h = F.conv2d(modulate(h, gain, shift, self.activation.bias), on_feature)
        if can_spread(h, per_row):
            rows, columns = (nearest_pixels(source[n], size[n], h.device)[0] for n in (0, 1))
            return spread(h, rows, columns, per_row, per_column)
        return nearest(h, size) + (per_row.T[:, :, None] + per_column.T[:, None, :]).to(h.dtype)

    @kept_for_inference
    def affine_in(self, dtype: torch.dtype, source: Sequence[int], size: Sequence[int]) -> tuple[Tensor, ...]:
        """The affine map, on features in dtype."""
        on_feature, per_row, per_column = self.affine(source, size)
        return on_feature.to(dtype), per_row, per_column
