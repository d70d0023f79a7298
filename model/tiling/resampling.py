"""Bicubic resampling of a window of an image, as `model.resampling.resample` does it for the whole."""

import torch
from torch import Tensor

A = -0.5  # of the cubic kernel, as in Pillow and in torch where it antialiases


def resample_window(
    images: Tensor,  # (B, C, h, w), the pixels that are known
    known: tuple[slice, slice],  # which those are of the whole image, rows and columns
    wanted: tuple[slice, slice],  # which are to be made of the whole result
    whole: tuple[tuple[int, int], tuple[int, int]],  # (height, width) of the image and of the result
) -> Tensor:  # (B, C, H, W)
    """Where all pixels are known that a wanted one is made of, it has the value that it has in the whole result."""
    rows, columns = (
        resampling_weights(known[n], wanted[n], whole[0][n], whole[1][n]).to(images.device) for n in (0, 1)
    )
    with torch.autocast(images.device.type, enabled=False):
        return rows @ images @ columns.T


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
