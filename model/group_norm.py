"""GroupNorm with SiLU over channels-last memory: Triton kernels on a GPU, plain PyTorch everywhere else.

The forward and the backward pass are two sweeps each over the rows (pixels) of (B, H·W, C): one sums every group, chunk
by chunk, one writes the result; the chunks are combined in between. Where one program can sum a group whole, there is
no launch for the first sweep. No atomics: equal inputs give equal bits.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from model.kernels import HAS_KERNELS, KERNEL_DEVICE, KERNEL_DTYPES, ceil_div, jit, repeated, tl, tracked

TILE = 4096  # elements of a program's tile, 16 a thread
LANES = 64  # channels of a tile: 128 bytes of a row in half precision
PROGRAMS = 1024  # enough of them to fill the largest GPU
FEW, FEW_PROGRAMS = 32, 256  # up to so many images × tiles, the reductions at each program's end cost more than waiting
MAX_CHUNKS = 128  # of an image's rows; every program of the second sweep combines them all
UNROLLED = tl.constexpr(2) if HAS_KERNELS else 2  # tiles of the first sweep whose loads are in flight together
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


def _kernels_take(x, weight, bias, groups, shift, plus, images):
    if not HAS_KERNELS or x.device.type != KERNEL_DEVICE or x.dtype not in KERNEL_DTYPES or x.dim() != 4:
        return False
    batch, channels, height, width = x.shape
    fits = 0 < images < 2**16 and 0 < height * width * channels < 2**31 and 0 < channels <= 4096  # offsets are int32
    fits = fits and groups > 0 and channels % groups == 0 and weight.shape == bias.shape == (channels,)
    fits = fits and batch > 0 and images % batch == 0 and (shift is None or shift.shape == (images, channels))
    return fits and (plus is None or (plus.shape[1:] == x.shape[1:] and images % len(plus) == 0))


def _rows(shift):
    """The shift with its channels side by side; its rows may be those of a wider table."""
    return shift if shift is None or shift.stride(1) == 1 else shift.contiguous()


def _plain(x, weight, bias, groups, eps, shift, silu):
    dtype = torch.promote_types(x.dtype, torch.float32)
    shift = x.new_zeros(x.shape[:2], dtype=dtype) if shift is None else shift.to(dtype)
    # PyTorch's channels-last kernel for the CPU loses the variance of a group whose mean is large, so that goes first;
    # the norm does not depend on it, nor does the gradient.
    level = (x.detach().mean((2, 3), dtype=dtype) + shift.detach()).unflatten(1, (groups, -1)).mean(2, keepdim=True)
    offset = (shift.unflatten(1, (groups, -1)) - level).flatten(1)
    y = F.group_norm(x.to(dtype) + offset[:, :, None, None], groups, weight.to(dtype), bias.to(dtype), eps)
    return (F.silu(y) if silu else y).to(x.dtype).contiguous(memory_format=torch.channels_last)


class _Fused(torch.autograd.Function):
    """The kernels with their gradient; torch.compile sees two opaque operators, which eager mode need not pay for."""

    @staticmethod
    def forward(ctx, x, weight, bias, shift, groups, eps, silu):
        run = _forward_operator if torch.compiler.is_compiling() else _forward
        y, statistics = run(x, weight, bias, shift, groups, eps, silu)
        ctx.save_for_backward(x, weight, bias, shift, statistics)
        ctx.silu = silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, bias, shift, statistics = ctx.saved_tensors
        run = _backward_operator if torch.compiler.is_compiling() else _backward
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, dparameters, dshift = run(dy, x, weight, bias, shift, statistics, ctx.silu)
        dweight, dbias = dparameters.sum(0).unbind()
        dshift = None if shift is None else dshift
        return dx, dweight.to(weight.dtype), dbias.to(bias.dtype), dshift, None, None, None


def _forward(x, weight, bias, shift, groups, eps, silu, plus=None, images=None):
    """-> y (images, C, H, W); mean and 1/std of each group, (images, 2, groups)."""
    images = images or len(x)
    y, statistics = _empty_outputs(x, weight, bias, shift, groups, eps, silu, plus, images)
    channels, height, width = x.shape[1:]
    plan = _plan(images, channels, height * width, groups, FEW_PROGRAMS)
    sizes = (height * width, plan.rows, _row_length(shift), len(x), 1 if plus is None else len(plus), channels, groups)
    with torch.cuda.device_of(x):
        if plan.chunks == 1:
            _whole_kernel[plan.sums_grid](
                x, plus, weight, bias, shift, y, statistics, eps, *sizes, silu, **plan.sums
            )  # fmt: skip
            return y, statistics
        partial = x.new_empty(images, plan.chunks, 2, groups, dtype=torch.float32)
        affine = x.new_empty(images, 2, channels, dtype=torch.float32)
        _moments_kernel[plan.sums_grid](x, plus, shift, partial, *sizes, **plan.sums)
        _combine_kernel[plan.sums_grid[0], images](
            weight, shift, partial, affine, statistics, eps, *sizes[:3], plan.chunks, channels, groups,
            plan.pooled, plan.sums["CHANNELS"], plan.sums["BLOCK_C"], plan.sums["BLOCK_G"],
        )  # fmt: skip
        _apply_kernel[plan.apply_grid](x, plus, affine, bias, y, height * width, *sizes[3:6], silu, **plan.apply)
    return y, statistics


def _row_length(shift):
    return 0 if shift is None else shift.stride(0)


def _empty_outputs(x, weight, bias, shift, groups, eps, silu, plus=None, images=None):
    images = images or len(x)
    y = x.new_empty(images, *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)
    return y, x.new_empty(images, 2, groups, dtype=torch.float32)


def _backward(dy, x, weight, bias, shift, statistics, silu):
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
            _gradient_sums_kernel[plan.sums_grid](*inputs, group_sums, channel_sums, *sizes, **plan.sums)
        _backward_kernel[plan.result_grid](
            *inputs, group_sums, channel_sums, dx, dparameters, dshift, *sizes, plan.pooled, **plan.result
        )
    return dx, dparameters, dshift


def _empty_gradients(dy, x, weight, bias, shift, statistics, silu):
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
_forward_operator.register_fake(
    lambda x, weight, bias, shift, groups, eps, silu: _empty_outputs(x, weight, bias, shift, groups, eps, silu)
)

_backward_operator = torch.library.custom_op(
    "smfdm::group_norm_silu_backward",
    _backward,
    mutates_args=(),
    schema="(Tensor dy, Tensor x, Tensor weight, Tensor bias, Tensor? shift, Tensor statistics, bool silu)"
    " -> (Tensor, Tensor, Tensor)",
)
_backward_operator.register_fake(_empty_gradients)


class _Plan(NamedTuple):
    """How the work is cut into programs, (tiles of channels, chunks of rows, images) of them in a grid."""

    chunks: int  # 1: one program sums all rows of its groups, so that there is no first sweep
    rows: int  # of a chunk
    pooled: int  # chunks to combine, rounded up to a power of two; 0 for one
    sums: dict  # tile of the first sweep: whole groups
    sums_grid: tuple
    result: dict  # tile of the second sweep
    result_grid: tuple
    apply: dict  # tile of an element-wise sweep
    apply_grid: tuple


@functools.cache
def _plan(batch, channels, rows, groups, few_programs=PROGRAMS):
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
    apply_grid = (ceil_div(channels, lanes), ceil_div(rows, apply["BLOCK_ROWS"]), batch)
    pooled = 0 if chunks == 1 else _power_of_two(chunks)
    return _Plan(chunks, chunk, pooled, sums, sums_grid, result, result_grid, apply, apply_grid)


def _whole_groups(group, groups, lanes):
    """Channels of a power of two of groups, about `lanes` in all; their 16-byte accesses are aligned."""
    count = 1
    while 2 * count * group <= lanes and count < groups:
        count *= 2
    return count * group


def _tile(channels, group, rows, elements=TILE):
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


def _power_of_two(n):
    """The smallest one that is not below n."""
    return 1 << (n - 1).bit_length()


# The kernels, for ROWS pixels of C channels in GROUPS groups. Of a tile's BLOCK_C lanes, CHANNELS are used.


@jit
def _lanes(C, GROUPS, CHANNELS, BLOCK_C, BLOCK_G):
    """Channels of this program, which lanes hold one; their groups, which of these exist; which lane is in which."""
    first, lane = tl.program_id(0) * CHANNELS, tl.arange(0, BLOCK_C)
    channel = first + lane
    held = (lane < CHANNELS) & (channel < C)
    group = first // (C // GROUPS) + tl.arange(0, BLOCK_G)
    member = held[:, None] & (channel[:, None] // (C // GROUPS) == group[None, :])
    return channel, held, group, group < GROUPS, member


@jit
def _pixels(start, last, channel, held, C, BLOCK_ROWS):
    """Offsets of a tile in its image, and which of its elements there are."""
    row = start + tl.arange(0, BLOCK_ROWS)
    return row[:, None] * C + channel[None, :], (row < last)[:, None] & held[None, :]


@jit
def _channel_shift(shift, batch, shift_row, channel, held):
    if shift is None:
        return tl.zeros([channel.shape[0]], tl.float32)
    else:  # noqa: RET505 - a kernel returns once on each side of what is known at compile time
        return tl.load(shift + batch * shift_row + channel, mask=held, other=0.0).to(tl.float32)


@jit
def _load(x, plus, at, seen):
    value = tl.load(x + at, mask=seen, other=0.0).to(tl.float32)
    if plus is not None:
        value += tl.load(plus + at, mask=seen, other=0.0).to(tl.float32)
    return value


@jit
def _to_groups(value, member):
    return tl.sum(tl.where(member, value[:, None], 0.0), 0)


@jit
def _to_channels(value, member):
    return tl.sum(tl.where(member, value[None, :], 0.0), 1)


@jit
def _pool(mean, m2, count):
    """Mean and sum of squared deviations of the union over axis 0 (Chan, Golub & LeVeque 1983)."""
    total = tl.maximum(tl.sum(count, 0), 1.0)
    pooled = tl.sum(count * mean, 0) / total
    deviation = mean - pooled[None, :]
    return pooled, tl.sum(m2 + count * deviation * deviation, 0)


@jit
def _moments(x, plus, offset, channel, held, member, first, last, C, BLOCK_ROWS):
    """Mean and sum of squared deviations of x + offset for each group, over rows first to last."""
    at, seen = _pixels(first, last, channel, held, C, BLOCK_ROWS)
    pivot = _load(x, plus, at, seen)  # of each element of the tile for itself: near the mean, so that little cancels
    total = tl.zeros([BLOCK_ROWS, channel.shape[0]], tl.float32)
    squares = tl.zeros([BLOCK_ROWS, channel.shape[0]], tl.float32)
    for start in tl.range(first + BLOCK_ROWS, last, BLOCK_ROWS, loop_unroll_factor=UNROLLED):
        at, seen = _pixels(start, last, channel, held, C, BLOCK_ROWS)
        step = tl.where(seen, _load(x, plus, at, seen) - pivot, 0.0)
        total += step
        squares += step * step
    count = ((last - first - tl.arange(0, BLOCK_ROWS) + BLOCK_ROWS - 1) // BLOCK_ROWS)[:, None].to(tl.float32)
    step = total / tl.maximum(count, 1.0)
    mean, m2 = _pool(pivot + step, squares - total * step, count)
    count = tl.where(member, (last - first).to(tl.float32), 0.0)
    return _pool((mean + offset)[:, None], tl.where(member, m2[:, None], 0.0), count)


@jit
def _moments_kernel(
    x, plus, shift, partial,  # partial (B, chunks, 2, GROUPS): mean and sum of squared deviations
    ROWS, rows, shift_row, x_images, plus_images, C: tl.constexpr, GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    chunk, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    first, last = chunk * rows, tl.minimum(chunk * rows + rows, ROWS)
    channel, held, group, exists, member = _lanes(C, GROUPS, CHANNELS, BLOCK_C, BLOCK_G)
    offset = _channel_shift(shift, batch, shift_row, channel, held)
    x += batch % x_images * ROWS * C
    if plus is not None:
        plus += batch % plus_images * ROWS * C
    mean, m2 = _moments(x, plus, offset, channel, held, member, first, last, C, BLOCK_ROWS)
    partial += (batch * tl.num_programs(1) + chunk) * 2 * GROUPS + group
    tl.store(partial, mean, mask=exists)
    tl.store(partial + GROUPS, m2, mask=exists)


@jit
def _pool_chunks(partial, batch, group, exists, ROWS, rows, chunks, C, GROUPS, CHUNKS):
    chunk = tl.arange(0, CHUNKS)
    partial += (batch * chunks + chunk)[:, None] * 2 * GROUPS + group[None, :]
    seen = (chunk < chunks)[:, None] & exists[None, :]
    mean = tl.load(partial, mask=seen, other=0.0)
    m2 = tl.load(partial + GROUPS, mask=seen, other=0.0)
    count = tl.minimum(ROWS - chunk * rows, rows) * (C // GROUPS)
    return _pool(mean, m2, tl.where(seen, count[:, None].to(tl.float32), 0.0))


@jit
def _combine_kernel(
    weight, shift, partial,
    affine, statistics, eps,  # affine (B, 2, C): what to subtract from x and the factor; statistics (B, 2, GROUPS)
    ROWS, rows, shift_row, chunks, C: tl.constexpr, GROUPS: tl.constexpr, CHUNKS: tl.constexpr,
    CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    channel, held, group, exists, member = _lanes(C, GROUPS, CHANNELS, BLOCK_C, BLOCK_G)
    mean, m2 = _pool_chunks(partial, batch, group, exists, ROWS, rows, chunks, C, GROUPS, CHUNKS)
    offset = _channel_shift(shift, batch, shift_row, channel, held)
    centre, factor = _affine(
        mean, m2, offset, weight, statistics, eps, batch, channel, held, group, exists, member, ROWS, C, GROUPS
    )
    affine += batch * 2 * C + channel
    tl.store(affine, centre, mask=held)
    tl.store(affine + C, factor, mask=held)


@jit
def _affine(
    mean, m2, offset, weight, statistics, eps, batch, channel, held, group, exists, member, ROWS, C, GROUPS
):  # fmt: skip
    """What to subtract from x in each channel, and the factor; mean and 1/std of each group go to the statistics."""
    rstd = 1.0 / tl.sqrt_rn(m2 / (ROWS * (C // GROUPS)) + eps)
    statistics += batch * 2 * GROUPS + group
    tl.store(statistics, mean, mask=exists)
    tl.store(statistics + GROUPS, rstd, mask=exists)
    factor = _to_channels(rstd, member) * tl.load(weight + channel, mask=held, other=0.0)
    return _to_channels(mean, member) - offset, factor


@jit
def _apply_kernel(
    x, plus, affine, bias, y, ROWS, x_images, plus_images, C: tl.constexpr, SILU: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    batch = (tl.num_programs(2) - 1 - tl.program_id(2)).to(tl.int64)  # the cache holds the images summed last
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    held = channel < C
    affine += batch * 2 * C + channel
    centre, factor = tl.load(affine, mask=held, other=0.0), tl.load(affine + C, mask=held, other=0.0)
    level = tl.load(bias + channel, mask=held, other=0.0)
    x += batch % x_images * ROWS * C
    if plus is not None:
        plus += batch % plus_images * ROWS * C
    at, seen = _pixels(tl.program_id(1) * BLOCK_ROWS, ROWS, channel, held, C, BLOCK_ROWS)
    _write(x, plus, y + batch * ROWS * C, at, seen, centre, factor, level, SILU)


@jit
def _write(x, plus, y, at, seen, centre, factor, level, SILU):
    value = (_load(x, plus, at, seen) - centre[None, :]) * factor[None, :] + level[None, :]
    if SILU:
        value *= tl.sigmoid(value)
    tl.store(y + at, value, mask=seen)


@jit
def _whole_kernel(
    x, plus, weight, bias, shift,
    y, statistics, eps,  # statistics (B, 2, GROUPS): mean and 1/std
    ROWS, rows, shift_row, x_images, plus_images, C: tl.constexpr, GROUPS: tl.constexpr, SILU: tl.constexpr,
    CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(2).to(tl.int64)
    channel, held, group, exists, member = _lanes(C, GROUPS, CHANNELS, BLOCK_C, BLOCK_G)
    offset = _channel_shift(shift, batch, shift_row, channel, held)
    x += batch % x_images * ROWS * C
    if plus is not None:
        plus += batch % plus_images * ROWS * C
    mean, m2 = _moments(x, plus, offset, channel, held, member, 0, ROWS, C, BLOCK_ROWS)
    centre, factor = _affine(
        mean, m2, offset, weight, statistics, eps, batch, channel, held, group, exists, member, ROWS, C, GROUPS
    )
    level = tl.load(bias + channel, mask=held, other=0.0)
    y += batch * ROWS * C
    for start in range(0, ROWS, BLOCK_ROWS):
        at, seen = _pixels(start, ROWS, channel, held, C, BLOCK_ROWS)
        _write(x, plus, y, at, seen, centre, factor, level, SILU)


# With x̂ = (x + shift − mean)·rstd, u = weight·x̂ + bias and N = rows × channels of a group:
#     du = dy·silu'(u)     dbias = Σ du     dweight = Σ du·x̂
#     dx = rstd·(weight·du − m − m̂·x̂)     m = Σ weight·du / N     m̂ = Σ weight·du·x̂ / N     (sums over the group)
#     dshift = Σ dx = rstd·(weight·Σ du − rows·m − m̂·Σ x̂)                                   (sums over the rows)


@jit
def _channel_constants(weight, bias, shift, statistics, batch, shift_row, channel, held, C, GROUPS):
    """What to subtract from x, 1/std, weight and bias."""
    statistics += batch * 2 * GROUPS + channel // (C // GROUPS)
    centre = tl.load(statistics, mask=held, other=0.0) - _channel_shift(shift, batch, shift_row, channel, held)
    rstd = tl.load(statistics + GROUPS, mask=held, other=0.0)
    weight = tl.load(weight + channel, mask=held, other=0.0).to(tl.float32)
    bias = tl.load(bias + channel, mask=held, other=0.0).to(tl.float32)
    return centre, rstd, weight, bias


@jit
def _normal_and_gradient(x, dy, at, seen, constants, SILU):
    """x̂ and du; du is 0 where nothing is seen."""
    centre, rstd, weight, bias = constants
    normal = (tl.load(x + at, mask=seen, other=0.0).to(tl.float32) - centre[None, :]) * rstd[None, :]
    gradient = tl.load(dy + at, mask=seen, other=0.0).to(tl.float32)
    if SILU:
        u = normal * weight[None, :] + bias[None, :]
        gate = tl.sigmoid(u)
        gradient *= gate * (1.0 + u * (1.0 - gate))
    return normal, gradient


@jit
def _gradient_sums(x, dy, constants, channel, held, first, last, C, SILU, SHIFTED, BLOCK_ROWS):
    """Σ du, Σ du·x̂ and, where there is a shift, Σ x̂ of each channel over rows first to last."""
    sum_du = tl.zeros([BLOCK_ROWS, channel.shape[0]], tl.float32)
    sum_dux = tl.zeros([BLOCK_ROWS, channel.shape[0]], tl.float32)
    sum_x = tl.zeros([BLOCK_ROWS, channel.shape[0]], tl.float32)
    for start in range(first, last, BLOCK_ROWS):
        at, seen = _pixels(start, last, channel, held, C, BLOCK_ROWS)
        normal, du = _normal_and_gradient(x, dy, at, seen, constants, SILU)
        sum_du += du
        sum_dux += du * normal
        if SHIFTED:
            sum_x += tl.where(seen, normal, 0.0)
    return tl.sum(sum_du, 0), tl.sum(sum_dux, 0), tl.sum(sum_x, 0)


@jit
def _gradient_sums_kernel(
    dy, x, weight, bias, shift, statistics,
    group_sums,  # (B, chunks, 2, GROUPS): Σ weight·du, Σ weight·du·x̂
    channel_sums,  # (B, chunks, 3, C): Σ du, Σ du·x̂, Σ x̂
    ROWS, rows, shift_row, C: tl.constexpr, GROUPS: tl.constexpr, SILU: tl.constexpr,
    CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    chunk, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    first, last = chunk * rows, tl.minimum(chunk * rows + rows, ROWS)
    channel, held, group, exists, member = _lanes(C, GROUPS, CHANNELS, BLOCK_C, BLOCK_G)
    constants = _channel_constants(weight, bias, shift, statistics, batch, shift_row, channel, held, C, GROUPS)
    x += batch * ROWS * C
    dy += batch * ROWS * C
    shifted: tl.constexpr = shift is not None
    sum_du, sum_dux, sum_x = _gradient_sums(x, dy, constants, channel, held, first, last, C, SILU, shifted, BLOCK_ROWS)
    part = batch * tl.num_programs(1) + chunk
    group_sums += part * 2 * GROUPS + group
    tl.store(group_sums, _to_groups(constants[2] * sum_du, member), mask=exists)
    tl.store(group_sums + GROUPS, _to_groups(constants[2] * sum_dux, member), mask=exists)
    channel_sums += part * 3 * C + channel
    tl.store(channel_sums, sum_du, mask=held)
    tl.store(channel_sums + C, sum_dux, mask=held)
    tl.store(channel_sums + 2 * C, sum_x, mask=held)


@jit
def _sum_chunks(sums, batch, width, index, exists, CHUNKS):
    """Sum over axis 1 of (B, chunks, width), at the columns `index`."""
    chunk, chunks = tl.arange(0, CHUNKS), tl.num_programs(1)
    sums += (batch * chunks + chunk)[:, None] * width + index[None, :]
    return tl.sum(tl.load(sums, mask=(chunk < chunks)[:, None] & exists[None, :], other=0.0), 0)


@jit
def _backward_kernel(
    dy, x, weight, bias, shift, statistics, group_sums, channel_sums,
    dx, dparameters, dshift,  # dparameters (B, 2, C): of weight and bias
    ROWS, rows, shift_row, C: tl.constexpr, GROUPS: tl.constexpr, SILU: tl.constexpr, CHUNKS: tl.constexpr,
    CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(1)
    batch = (tl.num_programs(2) - 1 - tl.program_id(2)).to(tl.int64)  # the cache holds the images summed last
    first, last = chunk * rows, tl.minimum(chunk * rows + rows, ROWS)
    channel, held, group, exists, member = _lanes(C, GROUPS, CHANNELS, BLOCK_C, BLOCK_G)
    constants = _channel_constants(weight, bias, shift, statistics, batch, shift_row, channel, held, C, GROUPS)
    _, rstd, weight, _ = constants
    x += batch * ROWS * C
    dy += batch * ROWS * C
    dx += batch * ROWS * C
    shifted: tl.constexpr = shift is not None
    if CHUNKS == 0:
        sum_du, sum_dux, sum_x = _gradient_sums(
            x, dy, constants, channel, held, first, last, C, SILU, shifted, BLOCK_ROWS
        )
        group_du, group_dux = _to_groups(weight * sum_du, member), _to_groups(weight * sum_dux, member)
    else:
        group_du = _sum_chunks(group_sums, batch, 2 * GROUPS, group, exists, CHUNKS)
        group_dux = _sum_chunks(group_sums + GROUPS, batch, 2 * GROUPS, group, exists, CHUNKS)
    mean_du = _to_channels(group_du, member) / (ROWS * (C // GROUPS))
    mean_dux = _to_channels(group_dux, member) / (ROWS * (C // GROUPS))

    for start in range(first, last, BLOCK_ROWS):
        at, seen = _pixels(start, last, channel, held, C, BLOCK_ROWS)
        normal, du = _normal_and_gradient(x, dy, at, seen, constants, SILU)
        value = rstd[None, :] * (weight[None, :] * du - mean_du[None, :] - mean_dux[None, :] * normal)
        tl.store(dx + at, value, mask=seen)

    dparameters += batch * 2 * C + channel
    if chunk == 0:
        if CHUNKS > 0:
            sum_du = _sum_chunks(channel_sums, batch, 3 * C, channel, held, CHUNKS)
            sum_dux = _sum_chunks(channel_sums + C, batch, 3 * C, channel, held, CHUNKS)
            sum_x = _sum_chunks(channel_sums + 2 * C, batch, 3 * C, channel, held, CHUNKS)
        tl.store(dparameters, sum_dux, mask=held)
        tl.store(dparameters + C, sum_du, mask=held)
        if shifted:
            value = rstd * (weight * sum_du - ROWS * mean_du - mean_dux * sum_x)
            tl.store(dshift + batch * C + channel, value, mask=held)
