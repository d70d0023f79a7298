"""What stands between the convolutions, each as one sweep over channels-last memory: Triton kernels on a GPU, plain
PyTorch everywhere else.

Where a tensor has fewer images than the result, (B, ...) for (K·B, ...), they serve all K: image n is image n mod B.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from model.blocks import GAIN, SLOPE, ceil_div, repeated
from model.fast.pointwise_kernels import add_kernel, column_sums_kernel, join_kernel, modulate_kernel, spread_kernel
from model.fast.triton_support import HAS_KERNELS, KERNEL_DEVICE, KERNEL_DTYPES, tracked

Activation = Literal["relu", "silu", "leaky_relu"]

ELEMENTS = 2048  # of a program, 16 a thread
ROWS_AT_ONCE, CHANNELS_AT_ONCE, COLUMN_PROGRAMS = 32, 64, 512  # of a tile of the sum over pixels; its programs


def add_biased(bias: Tensor, *terms: Tensor, activation: Activation | None = None) -> Tensor:
    """activation(the sum of up to three terms and a bias), channels-last.

    terms (K·B, C, H, W) or (B, C, H, W); bias (C,), or one for each image, (K·B, C) or (B, C). The bias is converted to
    the dtype of the terms. Differentiable once in everything.
    """
    images = max(map(len, terms if bias.dim() == 1 else (bias, *terms)))
    is_tracked = tracked(bias, *terms)
    by_kernels = kernels_take(*terms) and len({term.dtype for term in terms}) == 1
    if by_kernels and not is_tracked:
        return _add_biased(bias, [_channels_last(term) for term in terms], images, activation)
    terms = tuple(repeated(term, images) for term in terms)
    if by_kernels and bias.dim() == 1:
        return activated(_AddBiased.apply(bias, *map(_channels_last, terms)), activation)
    first, *others = terms
    bias = bias if bias.dim() == 1 else repeated(bias, images)
    total = reduce(torch.add, others, bias.to(first.dtype)[..., None, None])
    total = first + total if is_tracked or not others else total.add_(first)
    return activated(total, activation, inplace=not is_tracked)


def activated(x: Tensor, activation: Activation | None, inplace: bool = False) -> Tensor:
    """The activation alone; "leaky_relu" is FusedLeakyReLU's without its bias."""
    match activation:
        case None:
            return x
        case "relu":
            return F.relu(x, inplace)
        case "silu":
            return F.silu(x, inplace)
        case "leaky_relu":
            return F.leaky_relu(x, SLOPE, inplace) * GAIN


def modulate(h: Tensor, gain: Tensor, shift: Tensor, bias: Tensor) -> Tensor:
    """leaky_relu(h·gain + shift + bias, 0.2)·sqrt(2): the scale-adaptive modulation of an implicit upsampler.

    h (K·B, C, H, W), gain (B, C, 1, 1), shift (B, C, H, W), bias (C,) -> (K·B, C, H, W).
    """
    if not kernels_take(h) or tracked(h, gain, shift, bias):
        h = h.unflatten(0, (-1, len(gain))) * gain + shift + bias.to(h.dtype)[:, None, None]
        return activated(h.flatten(0, 1), "leaky_relu")
    h, shift = map(_channels_last, (h, shift))
    y = torch.empty_like(h)
    channels, pixels = h.shape[1], h.shape[2] * h.shape[3]
    grid = (ceil_div(channels * pixels, ELEMENTS), len(h))
    with torch.cuda.device_of(h):
        modulate_kernel[grid](
            h, gain.flatten().contiguous(), shift, bias, y, pixels, len(gain), channels, SLOPE, GAIN, ELEMENTS
        )
    return y


def join(x: Tensor, skip: Tensor, taken: int) -> Tensor:
    """The channels of x and the first `taken` of a skip: (K·B, C, H, W), (B, C_s, H, W) -> (K·B, C + taken, H, W).

    Differentiable.
    """
    if not kernels_take(x, skip) or tracked(x, skip) or x.dtype != skip.dtype:
        return torch.cat([x, repeated(skip[:, :taken], len(x))], dim=1)
    x, skip = map(_channels_last, (x, skip))
    (images, channels, height, width), pixels = x.shape, x.shape[2] * x.shape[3]
    y = x.new_empty(images, height, width, channels + taken).permute(0, 3, 1, 2)
    with torch.cuda.device_of(x):
        join_kernel[ceil_div(pixels * y.shape[1], ELEMENTS), images](
            x, skip, y, pixels, len(skip), channels, taken, skip.shape[1], ELEMENTS
        )
    return y


def spread(h: Tensor, rows: Tensor, columns: Tensor, per_row: Tensor, per_column: Tensor) -> Tensor:
    """y[:, :, i, j] = h[:, :, rows[i], columns[j]] + per_row[i] + per_column[j]: (N, C, h, w) -> (N, C, H, W).

    rows (H,) and columns (W,) are source pixels; per_row (H, C) and per_column (W, C). Without a gradient, on a GPU
    alone: see `can_spread`.
    """
    h = _channels_last(h)
    images, channels, height, width = h.shape
    y = h.new_empty(images, len(rows), len(columns), channels).permute(0, 3, 1, 2)
    pixels = len(rows) * len(columns)
    with torch.cuda.device_of(h):
        spread_kernel[ceil_div(pixels * channels, ELEMENTS), images](
            h, rows, columns, per_row, per_column, y, height * width, width, pixels, len(columns), channels, ELEMENTS
        )
    return y


def can_spread(*tensors: Tensor) -> bool:
    return kernels_take(tensors[0]) and not tracked(*tensors)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def kernels_take(*tensors: Tensor) -> bool:
    """Whether the kernels can run on these, images (B, C, H, W)."""
    on_device = HAS_KERNELS and all(t.device.type == KERNEL_DEVICE and t.dtype in KERNEL_DTYPES for t in tensors)
    return on_device and all(t.dim() == 4 and 0 < t[0].numel() < 2**31 and 0 < len(t) < 2**16 for t in tensors)


class _AddBiased(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bias: Tensor, *terms: Tensor) -> Tensor:
        ctx.terms, ctx.dtype = len(terms), bias.dtype
        return _add_biased(bias, terms, len(terms[0]), None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        return channel_sums(dy).to(ctx.dtype), *[dy] * ctx.terms


def _add_biased(bias: Tensor, terms: Sequence[Tensor], images: int, activation: Activation | None) -> Tensor:
    first, (second, third) = terms[0], (*terms[1:], None, None)[:2]
    channels, pixels = first.shape[1], first.shape[2] * first.shape[3]
    y = first.new_empty(images, *first.shape[2:], channels).permute(0, 3, 1, 2)
    counts = [1 if term is None else len(term) for term in (first, second, third)]
    biases = len(bias) if bias.dim() == 2 else 1
    with torch.cuda.device_of(first):
        add_kernel[ceil_div(pixels * channels, ELEMENTS), images](
            bias.contiguous(), first, second, third, y, pixels, biases, *counts,
            channels, activation, SLOPE, GAIN, ELEMENTS,
        )  # fmt: skip
    return y


def channel_sums(x: Tensor) -> Tensor:
    """Σ over images and pixels, in float32: (B, C, H, W) -> (C,)."""
    if not kernels_take(x):
        return x.sum((0, 2, 3), dtype=torch.float32)
    x = _channels_last(x)
    channels, rows = x.shape[1], x.numel() // x.shape[1]
    tiles = ceil_div(channels, CHANNELS_AT_ONCE)
    chunk = ceil_div(ceil_div(rows, ROWS_AT_ONCE), ceil_div(COLUMN_PROGRAMS, tiles)) * ROWS_AT_ONCE
    chunks = ceil_div(rows, chunk)
    partial = x.new_empty(chunks, channels, dtype=torch.float32)
    with torch.cuda.device_of(x):
        column_sums_kernel[tiles, chunks](x, partial, rows, chunk, channels, ROWS_AT_ONCE, CHANNELS_AT_ONCE)
    return partial.sum(0)
