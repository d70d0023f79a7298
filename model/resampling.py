"""Images as tensors, made larger or smaller."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from model.blocks import in_full_precision

A = -0.5  # of the cubic kernel, as in Pillow and in torch where it antialiases


def resample(images: Tensor, size: Sequence[int]) -> Tensor:
    """Bicubic with antialiasing: (B, C, h, w) -> (B, C, H, W), size (H, W).

    What Pillow computes, neither rounded nor clamped: of images in [-1, 1], the result overshoots beside sharp edges.
    """
    height, width = size
    if width == 1:  # where torch 2.13 mixes up the rows on a CPU: columns become rows before, and columns again after
        return F.interpolate(images.mT, size=(1, height), mode="bicubic", antialias=True).mT
    return F.interpolate(images, size=(height, width), mode="bicubic", antialias=True)


@in_full_precision
def resample_trained(images: Tensor, size: Sequence[int]) -> Tensor:
    """What `resample` computes, as two products, whose gradient has the same bits every time, on a GPU too."""
    rows, columns = (_whole_weights(images.shape[n], size[n - 2], images.device) for n in (2, 3))
    return rows @ images @ columns.T


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a cached matrix made while sampling must serve training too
def _whole_weights(source: int, target: int, device: torch.device) -> Tensor:
    return resampling_weights(slice(0, source), slice(0, target), source, target).to(device)


def resampling_weights(known: slice, wanted: slice, source: int, target: int) -> Tensor:
    """Weights (wanted, known) of source pixels in target pixels along a line of `source` pixels that becomes one of
    `target`: Keys' cubic kernel (1981), wider where the line becomes shorter."""
    scale = source / target
    width = max(scale, 1.0)
    centres = (torch.arange(wanted.start, wanted.stop, dtype=torch.float64) + 0.5) * scale
    pixels = torch.arange(known.start, known.stop, dtype=torch.float64) + 0.5
    distance = ((pixels[None] - centres[:, None]) / width).abs()
    near = ((A + 2) * distance - (A + 3)) * distance**2 + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * A
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return (weights / weights.sum(1, keepdim=True)).float()
