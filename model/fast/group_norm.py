"""GroupNorm with SiLU over channels-last memory: Triton kernels on a GPU, plain PyTorch everywhere else.

The forward and the backward pass are two sweeps each over the rows (pixels) of (B, H·W, C): one sums every group, chunk
by chunk, one writes the result; the chunks are combined in between. Where one program can sum a group whole, there is
no launch for the first sweep. No atomics: equal inputs give equal bits.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from model.blocks import ceil_div, repeated
from model.fast.group_norm_kernels import (
    apply_kernel,
    backward_kernel,
    combine_kernel,
    gradient_sums_kernel,
    moments_kernel,
    whole_kernel,
)
from model.fast.triton_support import HAS_KERNELS, KERNEL_DEVICE, KERNEL_DTYPES, tracked

TILE = 4096  # elements of a program's tile, 16 a thread
LANES = 64  # channels of a tile: 128 bytes of a row in half precision
PROGRAMS = 1024  # enough of them to fill the largest GPU
FEW, FEW_PROGRAMS = 32, 256  # up to so many images × tiles, the reductions at each program's end cost more than waiting
MAX_CHUNKS = 128  # of an image's rows; a program that combines them holds all of them
WHOLE_LANES, WHOLE_ELEMENTS = 16, 16384  # up to so many channels × rows, one program does both sweeps of its groups
WHOLE_TILE = 2048  # of one with few rows


def group_norm_silu(
    x: Tensor,                     # (B, C, H, W), float32, bfloat16, float16 or float64
    weight: Tensor,                # (C,)
    bias: Tensor,                  # (C,)
    groups: int,                   # divides C
    eps: float = 1e-5,
    shift: Tensor | None = None,   # (K·B, C), added to every pixel before the norm
    silu: bool = True,             # False: the norm alone
    plus: Tensor | None = None,    # (K·B, C, H, W) or (B, C, H, W), added before the norm
) -> Tensor:  # fmt: skip
    """silu(group_norm(x + plus + shift[:, :, None, None])) in x's dtype and channels-last, computed in float32 (Wu & He
    2018): (K·B, C, H, W). Where x or plus has only B images, they serve all K: image n is added to image n mod B.

    Differentiable once in every tensor. Shapes that do not fit raise RuntimeError.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    images = max(len(t) for t in (x, shift, plus) if t is not None)
    if plus is not None or images > len(x):
        plus = None if plus is None else plus.to(x.dtype).contiguous(memory_format=torch.channels_last)
        if _kernels_take(x, weight, bias, groups, shift, plus, images) and not tracked(x, weight, bias, shift, plus):
            return _forward(x, weight, bias, _rows(shift), groups, eps, silu, plus, images)[0]
        x, plus = repeated(x, images), None if plus is None else repeated(plus, images)
        x = x if plus is None else x + plus
    if not _kernels_take(x, weight, bias, groups, shift, None, images):
        return _plain(x, weight, bias, groups, eps, shift, silu)
    return _Fused.apply(x, weight.contiguous(), bias.contiguous(), _rows(shift), groups, eps, silu)


def affine_silu(
    x: Tensor,       # (B, C, H, W), float32, bfloat16, float16 or float64
    centre: Tensor,  # (C,)
    factor: Tensor,  # (C,)
    bias: Tensor,    # (C,)
    silu: bool = True,
) -> Tensor:  # fmt: skip
    """silu((x - centre)·factor + bias) in x's dtype and channels-last, computed in float32: a group norm whose mean and
    variance are known. Not differentiable."""
    x = x.contiguous(memory_format=torch.channels_last)
    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    if _kernels_take(x, factor, bias, 1, None, None, len(x)):
        y = torch.empty_like(x, memory_format=torch.channels_last)
        affine = torch.stack([centre, factor]).expand(len(x), 2, channels).contiguous()
        plan = _plan(len(x), channels, pixels, 1)
        with torch.cuda.device_of(x):
            apply_kernel[plan.apply_grid](x, None, affine, bias, y, pixels, len(x), 1, channels, silu, **plan.apply)
        return y
    factor, level = (
        each[:, None, None].to(torch.promote_types(x.dtype, torch.float32)) for each in (factor, bias - centre * factor)
    )
    y = torch.addcmul(level, x, factor)
    return (F.silu(y, inplace=True) if silu else y).to(x.dtype)


def _kernels_take(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, shift: Tensor | None, plus: Tensor | None, images: int
) -> bool:
    if not HAS_KERNELS or x.device.type != KERNEL_DEVICE or x.dtype not in KERNEL_DTYPES or x.dim() != 4:
        return False
    batch, channels, height, width = x.shape
    fits = 0 < images < 2**16 and 0 < height * width * channels < 2**31 and 0 < channels <= 4096  # offsets are int32
    fits = fits and groups > 0 and channels % groups == 0 and weight.shape == bias.shape == (channels,)
    fits = fits and batch > 0 and images % batch == 0 and (shift is None or shift.shape == (images, channels))
    return fits and (plus is None or (plus.shape[1:] == x.shape[1:] and images % len(plus) == 0))


def _rows(shift: Tensor | None) -> Tensor | None:
    """The shift with its channels side by side; its rows may be those of a wider table."""
    return shift if shift is None or shift.stride(1) == 1 else shift.contiguous()


def _plain(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, shift: Tensor | None, silu: bool
) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    shift = x.new_zeros(x.shape[:2], dtype=dtype) if shift is None else shift.to(dtype)
    # PyTorch's channels-last kernel for the CPU loses the variance of a group whose mean is large, so that goes first;
    # the norm does not depend on it, nor does the gradient.
    level = (x.detach().mean((2, 3), dtype=dtype) + shift.detach()).unflatten(1, (groups, -1)).mean(2, keepdim=True)
    offset = (shift.unflatten(1, (groups, -1)) - level).flatten(1)
    x_centred = x.to(dtype) + offset[:, :, None, None]
    if tracked(weight, bias) and not x_centred.requires_grad:
        x_centred.requires_grad_()  # else PyTorch's backward for the CPU writes a gradient where there is no memory
    y = F.group_norm(x_centred, groups, weight.to(dtype), bias.to(dtype), eps)
    return (F.silu(y) if silu else y).to(x.dtype).contiguous(memory_format=torch.channels_last)


class _Fused(torch.autograd.Function):
    """The kernels with their gradient; torch.compile sees two opaque operators, which eager mode need not pay for."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, groups: int, eps: float, silu: bool
    ) -> Tensor:
        run = _forward_operator if torch.compiler.is_compiling() else _forward
        y, statistics = run(x, weight, bias, shift, groups, eps, silu)
        ctx.save_for_backward(x, weight, bias, shift, statistics)
        ctx.silu = silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, shift, statistics = ctx.saved_tensors
        run = _backward_operator if torch.compiler.is_compiling() else _backward
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, dparameters, dshift = run(dy, x, weight, bias, shift, statistics, ctx.silu)
        dweight, dbias = dparameters.sum(0).unbind()
        dshift = None if shift is None else dshift
        return dx, dweight.to(weight.dtype), dbias.to(bias.dtype), dshift, None, None, None


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
    plus: Tensor | None = None,
    images: int | None = None,
) -> tuple[Tensor, Tensor]:
    """-> y (images, C, H, W); mean and 1/std of each group, (images, 2, groups)."""
    images = images or len(x)
    y, statistics = _empty_outputs(x, groups, images)
    channels, height, width = x.shape[1:]
    plan = _plan(images, channels, height * width, groups, FEW_PROGRAMS)
    sizes = (height * width, plan.rows, _row_length(shift), len(x), 1 if plus is None else len(plus), channels, groups)
    with torch.cuda.device_of(x):
        if plan.chunks == 1:
            whole_kernel[plan.sums_grid](x, plus, weight, bias, shift, y, statistics, eps, *sizes, silu, **plan.sums)
            return y, statistics
        partial = x.new_empty(images, plan.chunks, 2, groups, dtype=torch.float32)
        affine = x.new_empty(images, 2, channels, dtype=torch.float32)
        moments_kernel[plan.sums_grid](x, plus, shift, partial, *sizes, **plan.sums)
        combine_kernel[plan.sums_grid[0], images](
            weight, shift, partial, affine, statistics, eps, *sizes[:3], plan.chunks, channels, groups,
            plan.pooled, plan.sums["CHANNELS"], plan.sums["BLOCK_C"], plan.sums["BLOCK_G"],
        )  # fmt: skip
        apply_kernel[plan.apply_grid](x, plus, affine, bias, y, height * width, *sizes[3:6], silu, **plan.apply)
    return y, statistics


def _row_length(shift: Tensor | None) -> int:
    return 0 if shift is None else shift.stride(0)


def _empty_outputs(x: Tensor, groups: int, images: int) -> tuple[Tensor, Tensor]:
    y = x.new_empty(images, *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)
    return y, x.new_empty(images, 2, groups, dtype=torch.float32)


def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, statistics: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """-> gradients: of x; of weight and bias, for each image, (B, 2, C); of shift, empty where there is none."""
    dx, dparameters, dshift = _empty_gradients(dy, x, weight, bias, shift, statistics, silu)
    batch, channels, height, width = x.shape
    groups = statistics.shape[2]
    plan = _plan(batch, channels, height * width, groups)
    inputs = (dy, x, weight, bias, shift, statistics)
    sizes = (height * width, plan.rows, _row_length(shift), channels, groups, silu)
    group_sums = channel_sums = None
    with torch.cuda.device_of(x):
        if plan.chunks > 1:
            group_sums = x.new_empty(batch, plan.chunks, 2, groups, dtype=torch.float32)
            channel_sums = x.new_empty(batch, plan.chunks, 3, channels, dtype=torch.float32)
            gradient_sums_kernel[plan.sums_grid](*inputs, group_sums, channel_sums, *sizes, **plan.sums)
        backward_kernel[plan.result_grid](
            *inputs, group_sums, channel_sums, dx, dparameters, dshift, *sizes, plan.pooled, **plan.result
        )
    return dx, dparameters, dshift


def _empty_gradients(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, statistics: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dparameters = x.new_empty(x.shape[0], 2, x.shape[1], dtype=torch.float32)
    dshift = x.new_empty(0) if shift is None else shift.new_empty(shift.shape)
    return torch.empty_like(x, memory_format=torch.channels_last), dparameters, dshift


_forward_operator = torch.library.custom_op(
    "smfdm::group_norm_silu",
    lambda x, weight, bias, shift, groups, eps, silu: _forward(x, weight, bias, shift, groups, eps, silu),
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor bias, Tensor? shift, int groups, float eps, bool silu)"
    " -> (Tensor, Tensor)",
)
_forward_operator.register_fake(lambda x, weight, bias, shift, groups, eps, silu: _empty_outputs(x, groups, len(x)))

_backward_operator = torch.library.custom_op(
    "smfdm::group_norm_silu_backward",
    _backward,
    mutates_args=(),
    schema="(Tensor dy, Tensor x, Tensor weight, Tensor bias, Tensor? shift, Tensor statistics, bool silu)"
    " -> (Tensor, Tensor, Tensor)",
)
_backward_operator.register_fake(_empty_gradients)


Grid = tuple[int, int, int]


class _Plan(NamedTuple):
    """How the work is cut into programs, (tiles of channels, chunks of rows, images) of them in a grid."""

    chunks: int  # 1: one program sums all rows of its groups, so that there is no first sweep
    rows: int  # of a chunk
    pooled: int  # chunks to combine, rounded up to a power of two; 0 for one
    sums: dict[str, int]  # tile of the first sweep: whole groups
    sums_grid: Grid
    result: dict[str, int]  # tile of the second sweep backward
    result_grid: Grid
    apply: dict[str, int]  # tile of the second sweep forward
    apply_grid: Grid


@functools.cache
def _plan(batch: int, channels: int, rows: int, groups: int, few_programs: int = PROGRAMS) -> _Plan:
    group = channels // groups
    whole = _whole_groups(group, groups, WHOLE_LANES)
    if whole * rows <= WHOLE_ELEMENTS:
        sums, chunk = _tile(whole, group, rows, max(WHOLE_TILE, whole * rows // 4)), rows
    else:
        sums = _tile(_whole_groups(group, groups, LANES), group, rows)
        tiles = batch * ceil_div(channels, sums["CHANNELS"])
        wanted = min(MAX_CHUNKS, ceil_div(few_programs if tiles <= FEW else PROGRAMS, tiles))
        blocks = ceil_div(rows, sums["BLOCK_ROWS"])
        chunk = ceil_div(blocks, wanted) * sums["BLOCK_ROWS"]
    chunks = ceil_div(rows, chunk)
    even = min(channels & -channels, LANES)  # the power of two in the channels: a tile of it leaves no lane idle
    result = _tile(even, group, rows) if chunks > 1 and even >= LANES // 2 else sums
    sums_grid, result_grid = ((ceil_div(channels, tile["CHANNELS"]), chunks, batch) for tile in (sums, result))
    lanes = even if even >= LANES // 2 else min(_power_of_two(channels), LANES)
    apply = {"BLOCK_C": lanes, "BLOCK_ROWS": max(1, TILE // lanes), "num_warps": 8}
    tiles, blocks = ceil_div(channels, lanes), ceil_div(rows, apply["BLOCK_ROWS"])
    apply_grid = (tiles * blocks, 1, batch)  # of large images there are more blocks than the other axes of a grid take
    pooled = 0 if chunks == 1 else _power_of_two(chunks)
    return _Plan(chunks, chunk, pooled, sums, sums_grid, result, result_grid, apply, apply_grid)


def _whole_groups(group: int, groups: int, lanes: int) -> int:
    """Channels of a power of two of groups, about `lanes` in all; their 16-byte accesses are aligned."""
    count = 1
    while 2 * count * group <= lanes and count < groups:
        count *= 2
    return count * group


def _tile(channels: int, group: int, rows: int, elements: int = TILE) -> dict[str, int]:
    lanes = _power_of_two(channels)
    groups = max(1, channels // group) + (2 if channels % group and group % channels else 0)  # two of them cut
    block = min(_power_of_two(rows), _power_of_two(max(1, min(elements, TILE) // lanes)))
    return {
        "CHANNELS": channels,
        "BLOCK_C": lanes,
        "BLOCK_G": _power_of_two(groups),
        "BLOCK_ROWS": block,
        "num_warps": min(8, max(1, lanes * block // 512)),
    }


def _power_of_two(n: int) -> int:
    """The smallest one that is not below n."""
    return 1 << (n - 1).bit_length()
