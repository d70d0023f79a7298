"""Images as tensors, made larger or smaller."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def resample(images: Tensor, size: Sequence[int]) -> Tensor:
    """Bicubic with antialiasing: (B, C, h, w) -> (B, C, H, W), size (H, W). What Pillow computes, but for rounding."""
    return F.interpolate(images, size=tuple(size), mode="bicubic", antialias=True)
