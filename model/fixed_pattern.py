"""Fixed-pattern noise: what a network that enlarges by sub-pixels adds to every image, and what takes it out.

As a camera's sensor does (Chen et al. 2008, on photo-response non-uniformity), it shows in the mean over many images,
in which the images themselves cancel out. Its period is the n pixels of the result that an LR pixel becomes.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 127.5  # grey levels that a difference of 1 makes, of images in [-1, 1]
PERIODS = 8  # that an image should have, along each axis, at least


def fixed_pattern(images: Tensor, period: int) -> Tensor:
    """What repeats in the images at a period of n pixels: (B, C, H, W) in [-1, 1] -> (C, n, n), of mean 0.

    It begins at the first row and column. Each pixel is compared with the mean over a period around it, so that ramps
    leave nothing. Two periods at each border are left out: convolutions see padding there. H and W are 5·n or more.
    """
    reach, border = period // 2, 2 * period
    surroundings = F.conv2d(
        images, window(period).to(images).expand(images.shape[1], 1, -1, -1), groups=images.shape[1]
    )
    detail = images[..., reach : images.shape[2] - reach, reach : images.shape[3] - reach] - surroundings
    rows, columns = ((side - 2 * border) // period for side in images.shape[2:])
    start = border - reach
    inner = detail[..., start : start + rows * period, start : start + columns * period]
    return inner.unflatten(3, (columns, period)).unflatten(2, (rows, period)).mean(dim=(0, 2, 4))


def window(period: int) -> Tensor:
    """The weights of a mean over a period around a pixel, (k, k) with k odd: where n is even, the ends count half."""
    line = torch.ones(period // 2 * 2 + 1)
    if period % 2 == 0:
        line[[0, -1]] = 0.5
    return torch.outer(line, line) / period**2


def rms(pattern: Tensor) -> float:
    """The root mean square of a pattern of images in [-1, 1], in grey levels of 8 bits."""
    return float(pattern.square().mean().sqrt()) * LEVELS


@torch.no_grad()
def response(pattern: Callable[[], Tensor], bias: Tensor, change: float = 0.02) -> Tensor:
    """The derivative of a pattern, (C, n, n), by each of the K values of a bias, by differences: (C·n·n, K).

    `pattern()` tells the pattern with the values as they are; they are changed in place, and put back.
    """
    before, kept = pattern(), bias.clone()
    columns = []
    for k in range(len(bias)):
        bias[k] += change
        columns.append((pattern() - before).flatten() / change)
        bias.copy_(kept)
    return torch.stack(columns, dim=1)


def correction(pattern: Tensor, response: Tensor, rtol: float = 0.05) -> Tensor:
    """The smallest change of the bias, (K,), that takes the pattern out as far as one can, were the response linear.

    What has little influence, singular values below rtol times the largest, is left alone.
    """
    return -(torch.linalg.pinv(response, rtol=rtol) @ pattern.flatten())
