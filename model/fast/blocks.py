"""The layers of `model.blocks` with fewer and larger launches, and nothing computed twice."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.blocks import (
    EqualConv2d,
    FusedLeakyReLU,
    GroupNormSiLU,
    ResidualBlock,
    SelfAttention,
    ceil_div,
    in_full_precision,
    repeated,
)
from model.fast.group_norm import group_norm_silu
from model.fast.inference_copy import is_inference_copy, kept_for_inference
from model.fast.pointwise import Activation, activated, add_biased, join, kernels_take
from model.fast.triton_support import tracked

PLAIN_ATTENTION = 1024  # positions up to which attention is computed with its N × N matrix
ALIGNED = 8  # channels, 16 bytes in half precision: matrix units want rows of a whole number of them


def in_one_sweep(module: nn.Module, x: Tensor) -> bool:
    """Whether bias, activation and residual are added in one sweep: in inference on a GPU alone. In a training, all
    passes round alike, with gradients or without: a discriminator would learn the difference."""
    return is_inference_copy(module) and kernels_take(x)


class FastConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return convolved(self, x)


def convolved(conv: nn.Conv2d, x: Tensor, *terms: Tensor, activation: Activation | None = None) -> Tensor:
    """activation(conv(x) + the sum of terms). PyTorch adds a bias slowly to channels-last memory on a GPU."""
    if conv.bias is None or not in_one_sweep(conv, x):
        total = sum(terms, nn.Conv2d.forward(conv, x))
        return activated(total, activation, inplace=not tracked(total))
    h = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    return add_biased(conv.bias, h, *terms, activation=activation)


class FastEqualConv2d(EqualConv2d):
    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None or not in_one_sweep(self, x):
            return super().forward(x)
        return add_biased(self.bias, F.conv2d(x, self.weight * self.gain, None, self.stride, self.padding))


class FastFusedLeakyReLU(FusedLeakyReLU):
    def forward(self, x: Tensor) -> Tensor:
        return add_biased(self.bias, x, activation="leaky_relu") if in_one_sweep(self, x) else super().forward(x)


class FastGroupNormSiLU(GroupNormSiLU):
    def forward(self, x: Tensor) -> Tensor:
        return normalise(self, x)


def normalise(
    norm: nn.Module, x: Tensor, shift: Tensor | None = None, silu: bool = True, plus: Tensor | None = None
) -> Tensor:
    """silu(norm(x + plus + shift)), or without the SiLU; see `group_norm_silu`. Where norm is an nn.SiLU, just that."""
    if isinstance(norm, nn.GroupNorm):
        return group_norm_silu(x, norm.weight, norm.bias, norm.num_groups, norm.eps, shift, silu, plus)
    if shift is None or not in_one_sweep(norm, x):
        return silu_of_sum(x, shift, plus)
    return add_biased(shift, x, *(() if plus is None else (plus,)), activation="silu")


def silu_of_sum(x: Tensor, shift: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
    """silu(x + plus + shift): x and plus (K·B, C, H, W) or (B, C, H, W), shift (K·B, C) -> (K·B, C, H, W)."""
    images = max(len(t) for t in (x, shift, plus) if t is not None)
    x = repeated(x, images)
    if shift is None and plus is None:
        return F.silu(x)
    if plus is not None:
        x = x + repeated(plus, images)
    if shift is not None:
        x = x + shift.to(x.dtype)[:, :, None, None]
    return F.silu(x, inplace=not tracked(x))


def bias_of(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


class FastSelfAttention(SelfAttention):
    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        pixels = self.qkv(normalise(self.norm, x, silu=False)).flatten(2).transpose(1, 2)  # (B, H·W, 3·C)
        mixed = attend(*pixels.chunk(3, dim=2)).transpose(1, 2).unflatten(2, x.shape[2:])
        return add_biased(bias_of(self.out), F.conv2d(mixed, self.out.weight), x)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q·kᵀ/√C)·v over N positions: (B, N, C) each -> (B, N, C).

    Heads as wide as these have no fused kernel on a GPU that is faster than three plain operations, which make an
    N × N matrix; from some size on that costs more than it gains.
    """
    if q.shape[1] > PLAIN_ATTENTION:
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
    return torch.bmm(softmax(torch.bmm(q * q.shape[2] ** -0.5, k.transpose(1, 2))), v)


@in_full_precision  # autocast would make float32 of the scores; the sum is in float32 anyway
def softmax(scores: Tensor) -> Tensor:
    return scores.softmax(2)


class Entry(NamedTuple):
    """What a residual block does first to a range of its input channels: the norm and both convolutions over them."""

    norm: tuple[Tensor, Tensor, int, float] | None  # weight, bias, norm groups, eps; None: there is none
    conv: Tensor
    shortcut: Tensor | None

    def activated(self, x: Tensor) -> Tensor:
        return F.silu(x) if self.norm is None else group_norm_silu(x, *self.norm)


class FastResidualBlock(ResidualBlock):
    """Takes what the noise embedding adds from the table of all blocks, and shares the skip among steps.

    The K steps of a group that reuses an encoder state share the skip, and no norm group, convolution or shortcut over
    channels of the skip alone depends on the step: all that is computed for B images in place of K·B, and added.
    """

    def forward(  # type: ignore[override]  # its UNet makes the table out of the embedding
        self, x: Tensor, shifts: dict[ResidualBlock, Tensor], skip: Tensor | None = None
    ) -> Tensor:
        """x (K·B, C, H, W), or (B, C, H, W) for all steps; shifts of `noise_shifts`; skip (B, C_skip, H, W)
        -> (K·B, C_out, H, W)."""
        parts = self.parts(x, skip)
        first, *shared = [F.conv2d(entry.activated(part), entry.conv, padding=1) for part, entry in parts]
        h = normalise(self.norm2, first, shifts[self], plus=shared[0] if shared else None)
        h = F.conv2d(self.dropout(h), self.conv2.weight, padding=1)
        residuals = [part if entry.shortcut is None else F.conv2d(part, entry.shortcut) for part, entry in parts]
        return self.attention(add_biased(self.output_bias(), h, *residuals))

    def parts(self, x: Tensor, skip: Tensor | None) -> list[tuple[Tensor, Entry]]:
        """Input and skip as parts (channels, their Entry); a second part has the channels that all steps share."""
        if skip is None:
            return [(x, self.entry(0, x.shape[1]))]
        width, channels = x.shape[1], x.shape[1] + skip.shape[1]
        of_norm = channels // self.norm1.num_groups if isinstance(self.norm1, nn.GroupNorm) else 1
        step = math.lcm(of_norm, ALIGNED)
        cut = ceil_div(width, step) * step
        if len(x) == len(skip) or 4 * (channels - cut) <= channels:  # a small share costs more launches than it saves
            return [(join(x, skip, skip.shape[1]), self.entry(0, channels))]
        shared = skip[:, cut - width :].contiguous(memory_format=torch.channels_last)
        x = join(x, skip, cut - width) if cut > width else x
        return [(x, self.entry(0, cut)), (shared, self.entry(cut, channels))]

    @kept_for_inference
    def entry(self, start: int, stop: int) -> Entry:
        """The Entry of channels start to stop, which hold whole norm groups."""
        conv, shortcut = self.conv1.weight, getattr(self.shortcut, "weight", None)
        if (start, stop) == (0, self.conv1.in_channels):
            return Entry(self.norm_of(start, stop), conv, shortcut)
        conv, shortcut = (  # where the input has parts, there is a shortcut: the skip's channels are too many to add
            weight[:, start:stop].contiguous(memory_format=torch.channels_last)  # type: ignore[index]
            for weight in (conv, shortcut)
        )
        return Entry(self.norm_of(start, stop), conv, shortcut)

    def norm_of(self, start: int, stop: int) -> tuple[Tensor, Tensor, int, float] | None:
        norm = self.norm1
        if not isinstance(norm, nn.GroupNorm):
            return None
        norm_groups = norm.num_groups * (stop - start) // norm.num_channels
        return norm.weight[start:stop], norm.bias[start:stop], norm_groups, norm.eps

    @kept_for_inference
    def output_bias(self) -> Tensor:
        if isinstance(self.shortcut, nn.Identity):
            return bias_of(self.conv2)
        return bias_of(self.conv2) + bias_of(self.shortcut)


@in_full_precision
def noise_shifts(blocks: Iterable[ResidualBlock], embedding: Tensor) -> dict[ResidualBlock, Tensor]:
    """What the noise embedding (K·B, C_emb) adds in each block before its second norm, (K·B, C_out) with the bias of
    the convolution there: one product for all blocks."""
    blocks = list(blocks)
    weight = torch.cat([block.noise.weight for block in blocks])
    bias = torch.cat([block.noise.bias for block in blocks]) + torch.cat([bias_of(block.conv1) for block in blocks])
    shifts = F.linear(embedding, weight, bias).split([len(block.noise.weight) for block in blocks], dim=1)
    return dict(zip(blocks, shifts, strict=True))
