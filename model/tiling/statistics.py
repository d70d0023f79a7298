"""GroupNorm over an image of which some tiles are in memory: its mean and variance are those of the whole image.

To measure them over all tiles and start again until they are right does not work: once moments are given, no norm takes
back what an earlier one gets wrong, and over dozens of norms small errors grow. So they are found on a sample of small
windows, computed as one batch, in which each norm takes what it measures of all of them, layer by layer:

1. The moments of the sample are those of every norm.
2. With these, all tiles are computed. What a norm sees of the whole image differs from what it saw of the sample: that
   is its correction, a ratio of variances and a distance of means, in standard deviations.
3. The sample is computed once more, and each norm takes what it measures, corrected: a control variate, which holds as
   far as whole and sample change alike when earlier norms do. 2 and 3 may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.blocks import GroupNormSiLU
from model.fast import affine_silu
from model.tiling.plan import Slices, crop

Cores = list[Slices]  # of each image of a batch, what counts
Key = tuple[int, int]  # (call of the network, norm)


class Moments(NamedTuple):
    """Of each norm group, over some pixels: float64 (groups,)."""

    pixels: int
    mean: Tensor
    variance: Tensor

    def pooled(self, other: Moments) -> Moments:
        """Over the pixels of both (Chan et al. 1979)."""
        pixels = self.pixels + other.pixels
        share, difference = other.pixels / pixels, other.mean - self.mean
        mean = self.mean + share * difference
        variance = torch.lerp(self.variance, other.variance, share) + share * (1 - share) * difference.square()
        return Moments(pixels, mean, variance)

    def corrected(self, correction: Correction) -> Moments:
        mean = self.mean + correction.distance * self.variance.sqrt()
        return self._replace(mean=mean, variance=self.variance * correction.ratio)


class Correction(NamedTuple):
    """From the moments of the sample to those of the image, float64 (groups,)."""

    ratio: Tensor  # of variances
    distance: Tensor  # of means, in standard deviations of the sample

    @classmethod
    def between(cls, sample: Moments, image: Moments) -> Correction:
        distance = (image.mean - sample.mean) / sample.variance.sqrt()
        return cls((image.variance / sample.variance).nan_to_num(1, 1, 1), distance.nan_to_num(0, 0, 0))


def moments_of(x: Tensor, cores: Cores, groups: int) -> Moments:
    """Of x (B, C, h, w), over the cores."""
    return reduce(
        Moments.pooled, (moments_of_one(crop(image, core), groups) for image, core in zip(x, cores, strict=True))
    )


def moments_of_one(x: Tensor, groups: int) -> Moments:
    """Of x (C, h, w)."""
    pixels = x.permute(1, 2, 0).float()  # (h, w, C)
    mean = pixels.mean(1).mean(0)  # of each row first: several times as fast on a CPU
    variance = (pixels - mean).square_().mean(1).mean(0)
    mean, variance = (channels.double().unflatten(0, (groups, -1)) for channels in (mean, variance))
    between, centre = torch.var_mean(mean, dim=1, correction=0)
    return Moments(pixels.shape[0] * pixels.shape[1], centre, variance.mean(1) + between)


class Looking(Enum):
    AT_SAMPLE = 1  # norms take what they measure, corrected, and that is known from then on
    AT_ALL = 2  # norms take what is known, and measure what they see
    KNOWING = 3  # norms take what is known


class Statistics:
    """The moments of every norm at every call of the network."""

    def __init__(self) -> None:
        self.call = 0  # of the network: the encoder's is 0, then come the decoder's
        self.forget()

    def forget(self) -> None:
        self.looking = Looking.AT_SAMPLE
        self.known: dict[Key, Moments] = {}
        self.sampled: dict[Key, Moments] = {}
        self.seen: dict[Key, Moments] = {}
        self.corrections: dict[Key, Correction] = {}

    def of(self, norm: int, measure: Callable[[], Moments]) -> Moments:
        """What a norm takes; `measure` has the moments of its batch."""
        key = self.call, norm
        if self.looking is Looking.AT_SAMPLE:
            self.sampled[key] = moments = measure()
            self.known[key] = moments.corrected(self.corrections[key]) if key in self.corrections else moments
        elif self.looking is Looking.AT_ALL:
            moments = measure()
            self.seen[key] = self.seen[key].pooled(moments) if key in self.seen else moments
        return self.known[key]

    def correct(self) -> None:
        """Once all tiles were seen."""
        self.corrections = {key: Correction.between(self.sampled[key], seen) for key, seen in self.seen.items()}
        self.seen = {}


class SharedGroupNorm(nn.GroupNorm):
    """GroupNorm by the moments that `statistics` tells, in place of those of each image."""

    silu = False
    number: int  # of this norm in the network
    statistics: Statistics
    cores: Callable[[], Cores]  # of the batch, at the level of this norm

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        moments = self.statistics.of(self.number, lambda: moments_of(x, self.cores(), self.num_groups))
        repeats = self.num_channels // self.num_groups
        centre = moments.mean.float().repeat_interleave(repeats)
        factor = (moments.variance + self.eps).rsqrt().float().repeat_interleave(repeats) * self.weight
        return affine_silu(x, centre, factor, self.bias, self.silu)


class SharedGroupNormSiLU(SharedGroupNorm, GroupNormSiLU):
    silu = True
