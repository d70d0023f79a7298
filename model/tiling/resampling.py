"""Bicubic resampling of a window of an image, as `model.resampling.resample` does it for the whole."""

import torch
from torch import Tensor

from model.resampling import resampling_weights


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
