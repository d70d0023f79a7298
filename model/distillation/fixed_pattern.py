"""Fixed-pattern noise, a faint pattern that a network adds to all its images: how it is measured and made weaker.

The sensor of a camera adds such a pattern too (Chen et al. 2008, on photo-response non-uniformity). The mean over many
images shows it, because the images themselves cancel out. It repeats every n pixels, where an LR pixel becomes n × n
pixels of the result. In a network that enlarges by sub-pixels, a change of biases takes much of it out.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 127.5  # grey levels that a difference of 1 makes, of images in [-1, 1]
CHANGE = 0.02  # of a bias, to see what it does
COUNTS = 16  # times as much as other changes of the images: a pattern is faint, but the same in all
PERIODS = 8  # that an image should have, along each axis, at least


def fixed_pattern(images: Tensor, period: int) -> Tensor:
    """What repeats in the images at a period of n pixels: (B, C, H, W) in [-1, 1] -> (C, n, n), of mean 0.

    It begins at the first row and column. Each pixel is compared with the mean over a period around it, so that ramps
    leave nothing. Two periods at each border are left out: convolutions see padding there. H and W are 5·n or more.
    """
    reach, border = period // 2, 2 * period
    channels = images.shape[1]
    surroundings = F.conv2d(images, window(images, period).expand(channels, 1, -1, -1), groups=channels)
    detail = images[..., reach : images.shape[2] - reach, reach : images.shape[3] - reach] - surroundings
    rows, columns = ((side - 2 * border) // period for side in images.shape[2:])
    start = border - reach
    inner = detail[..., start : start + rows * period, start : start + columns * period]
    return inner.unflatten(3, (columns, period)).unflatten(2, (rows, period)).mean(dim=(0, 2, 4))


def window(images: Tensor, period: int) -> Tensor:
    """The weights of a mean over a period around a pixel, (k, k) with k odd: where n is even, the ends count half.

    They are made where the images are: a CUDA graph can copy nothing from the host.
    """
    line = images.new_ones(period // 2 * 2 + 1)
    if period % 2 == 0:
        line[::period].fill_(0.5)
    return torch.outer(line, line) / period**2


def rms(difference: Tensor) -> float:
    """The root mean square of a difference of images in [-1, 1], in grey levels of 8 bits."""
    return float(difference.square().mean().sqrt()) * LEVELS


class Response(NamedTuple):
    """The derivatives by each of the K values of a bias."""

    pattern: Tensor  # (C·n·n, K)
    images: Tensor  # (K, N), of all pixels of some images, in 16 bits


Measured = Callable[[], tuple[Tensor, Tensor]]  # the pattern (C, n, n), and all pixels of some images (N,)


@torch.no_grad()
def response(measure: Measured, bias: Tensor) -> Response:
    """By differences: the values of the bias are changed in place, one after the other, and put back."""
    (pattern, images), kept = measure(), bias.clone()
    of_pattern, of_images = [], []
    for k in range(len(bias)):
        bias[k] += CHANGE
        now = measure()
        bias.copy_(kept)
        of_pattern.append((now[0] - pattern).flatten() / CHANGE)
        of_images.append(((now[1] - images) / CHANGE).half())
    return Response(torch.stack(of_pattern, dim=1), torch.stack(of_images))


def correction(pattern: Tensor, changes: Tensor, response: Response) -> Tensor:
    """The change of the bias, (K,), that makes COUNTS·|pattern|² + |changes|² least, were both linear in it: a step of
    Gauss and Newton. The changes so far (N,) are of the images of the response; squares are means over pixels."""
    of_pattern, of_images = response.pattern, response.images.float()
    normal = COUNTS * of_pattern.T @ of_pattern / pattern.numel() + of_images @ of_images.T / changes.numel()
    slope = COUNTS * of_pattern.T @ pattern.flatten() / pattern.numel() + of_images @ changes / changes.numel()
    damping = 1e-6 * normal.diagonal().mean() * torch.eye(len(normal))
    return -torch.linalg.solve(normal + damping, slope)
