"""The layers that the network is made of."""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.frozen import kept_when_frozen
from model.group_norm import group_norm_silu
from model.pointwise import GAIN, SLOPE, add_biased, join

PLAIN_ATTENTION = 1024  # positions up to which attention is computed with its N × N matrix
ALIGNED = 8  # channels, 16 bytes in half precision: matrix units want rows of a whole number of them


def in_full_precision(function):
    """Autocast is off inside: for small products whose rounding would reach every pixel."""

    @functools.wraps(function)
    def wrapper(*args):
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return function(*args)

    return wrapper


class EqualConv2d(nn.Conv2d):
    """Convolution with an equalised learning rate (Karras et al. 2018): weights ~ N(0, 1), scaled by 1/sqrt(fan_in)."""

    def __init__(self, in_channels, out_channels, kernel_size, **kwargs):
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)
        self.gain = 1 / math.sqrt(in_channels * kernel_size**2)

    def forward(self, x):
        return F.conv2d(x, self.weight * self.gain, self.bias, self.stride, self.padding)


class EqualLinear(nn.Linear):
    """Linear layer with an equalised learning rate: weights ~ N(0, 1), scaled by 1/sqrt(fan_in)."""

    def forward(self, x):
        return F.linear(x, self.weight / math.sqrt(self.in_features), self.bias)


class FusedLeakyReLU(nn.Module):
    """leaky_relu(x + bias, 0.2)·sqrt(2): the bias of the layer before it and a gain that keeps the variance."""

    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):  # (B, C, H, W)
        return F.leaky_relu(x + self.bias.to(x.dtype)[:, None, None], SLOPE) * GAIN


class NoiseLevelEmbedding(nn.Module):
    """Sinusoids of the continuous noise level γ in (0, 1], then an MLP (WaveGrad, Chen et al. 2021)."""

    def __init__(self, channels):
        super().__init__()
        frequencies = torch.exp(-math.log(1e4) * torch.arange(channels // 2) / (channels // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.expand = nn.Linear(channels, 4 * channels)
        self.project = nn.Linear(4 * channels, channels)

    @in_full_precision
    def forward(self, noise_level):  # (N,)
        angles = noise_level[:, None].float() * self.frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.project(F.silu(self.expand(waves)))  # (N, C)


def normalise(norm, x, shift=None, silu=True, plus=None):
    """A GroupNorm's silu(norm(x + plus + shift)), or without the SiLU; see `group_norm_silu`."""
    return group_norm_silu(x, norm.weight, norm.bias, norm.num_groups, norm.eps, shift, silu, plus)


def attend(q, k, v):
    """softmax(q·kᵀ/√C)·v over N positions: (B, N, C) each -> (B, N, C).

    Heads as wide as these have no fused kernel on a GPU that is faster than three plain operations, which make an
    N × N matrix; from some size on that costs more than it gains.
    """
    if q.shape[1] > PLAIN_ATTENTION:
        return F.scaled_dot_product_attention(*(t[:, None] for t in (q, k, v)))[:, 0]
    return torch.bmm(softmax(torch.bmm(q * q.shape[2] ** -0.5, k.transpose(1, 2))), v)


@in_full_precision  # autocast would make float32 of the scores; the sum is in float32 anyway
def softmax(scores):
    return scores.softmax(2)


class SelfAttention(nn.Module):
    """One head of attention over all pixels, with a residual connection."""

    def __init__(self, channels, norm_groups):
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x):  # (B, C, H, W)
        pixels = self.qkv(normalise(self.norm, x, silu=False)).flatten(2).transpose(1, 2)  # (B, H·W, 3·C)
        mixed = attend(*pixels.chunk(3, dim=2)).transpose(1, 2).unflatten(2, x.shape[2:])
        return add_biased(self.out.bias, F.conv2d(mixed, self.out.weight), x)


class Entry(NamedTuple):
    """What a residual block does first to a range of its input channels: the norm and both convolutions over them."""

    norm: tuple[Tensor, Tensor, int, float]  # weight, bias, groups, eps
    conv: Tensor
    shortcut: Tensor | None


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, conv; plus the noise embedding; GroupNorm, SiLU, dropout, conv; plus the input; attention.

    A decoder's block takes the skip beside its input, as channels that follow the input's. The K steps of a group that
    reuses an encoder state share the skip, and no GroupNorm group, convolution or shortcut over channels of the skip
    alone depends on the step: all that is computed for B images in place of K·B, and added.
    """

    def __init__(self, in_channels, out_channels, emb_channels, norm_groups, dropout=0.0, attention=False):
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.noise = nn.Linear(emb_channels, out_channels)
        self.norm2 = nn.GroupNorm(norm_groups, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.attention = SelfAttention(out_channels, norm_groups) if attention else nn.Identity()

    def forward(self, x, shift, skip=None):
        """x (K·B, C, H, W), or (B, C, H, W) for all steps; shift (K·B, C_out), see `noise_shifts`; skip (B, C_s, H, W)
        -> (K·B, C_out, H, W)."""
        parts = [(x, self.entry(0, x.shape[1]))] if skip is None else self.join(x, skip)
        first, *shared = [F.conv2d(group_norm_silu(part, *entry.norm), entry.conv, padding=1) for part, entry in parts]
        h = normalise(self.norm2, first, shift, plus=shared[0] if shared else None)
        h = F.conv2d(self.dropout(h), self.conv2.weight, padding=1)
        residuals = [part if entry.shortcut is None else F.conv2d(part, entry.shortcut) for part, entry in parts]
        return self.attention(add_biased(self.output_bias(), h, *residuals))

    def join(self, x, skip):
        """Input and skip as parts (channels, their Entry); a second part has the channels that all steps share."""
        width, channels = x.shape[1], x.shape[1] + skip.shape[1]
        step = math.lcm(channels // self.norm1.num_groups, ALIGNED)
        cut = -(-width // step) * step
        if len(x) == len(skip) or 4 * (channels - cut) <= channels:  # a small share costs more launches than it saves
            return [(join(x, skip, skip.shape[1]), self.entry(0, channels))]
        shared = skip[:, cut - width :].contiguous(memory_format=torch.channels_last)
        x = join(x, skip, cut - width) if cut > width else x
        return [(x, self.entry(0, cut)), (shared, self.entry(cut, channels))]

    @kept_when_frozen
    def entry(self, start, stop):
        """The Entry of channels start to stop, which hold whole groups."""
        norm, conv, shortcut = self.norm1, self.conv1.weight, getattr(self.shortcut, "weight", None)
        groups = norm.num_groups * (stop - start) // norm.num_channels
        if (start, stop) == (0, norm.num_channels):
            return Entry((norm.weight, norm.bias, groups, norm.eps), conv, shortcut)
        conv, shortcut = (
            weight[:, start:stop].contiguous(memory_format=torch.channels_last) for weight in (conv, shortcut)
        )
        return Entry((norm.weight[start:stop], norm.bias[start:stop], groups, norm.eps), conv, shortcut)

    @kept_when_frozen
    def output_bias(self):
        return self.conv2.bias if isinstance(self.shortcut, nn.Identity) else self.conv2.bias + self.shortcut.bias


@in_full_precision
def noise_shifts(blocks, embedding):
    """What the noise embedding (N, C_emb) adds in each block before its second norm, (N, C_out) with the bias of the
    convolution there: one product for all blocks."""
    weight = torch.cat([block.noise.weight for block in blocks])
    bias = torch.cat([block.noise.bias for block in blocks]) + torch.cat([block.conv1.bias for block in blocks])
    return F.linear(embedding, weight, bias).split([len(block.noise.weight) for block in blocks], dim=1)
