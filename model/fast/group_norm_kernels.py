"""The Triton kernels of GroupNorm + SiLU, for ROWS pixels of C channels in GROUPS groups.

A program works on a tile of CHANNELS channels in BLOCK_C lanes, a power of two; where it sums, those are whole groups.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from model.fast.triton_support import constant, in_kernels, kernel, tl

UNROLLED = constant(2)  # tiles of the first sweep whose loads are in flight together


@in_kernels
def _lanes(C, GROUPS, CHANNELS, BLOCK_C, BLOCK_G):
    """Channels of this program, which lanes hold one; their groups, which of these exist; which lane is in which."""
    first, lane = tl.program_id(0) * CHANNELS, tl.arange(0, BLOCK_C)
    channel = first + lane
    held = (lane < CHANNELS) & (channel < C)
    group = first // (C // GROUPS) + tl.arange(0, BLOCK_G)
    member = held[:, None] & (channel[:, None] // (C // GROUPS) == group[None, :])
    return channel, held, group, group < GROUPS, member


@in_kernels
def _pixels(start, last, channel, held, C, BLOCK_ROWS):
    """Offsets of a tile in its image, and which of its elements there are."""
    row = start + tl.arange(0, BLOCK_ROWS)
    return row[:, None] * C + channel[None, :], (row < last)[:, None] & held[None, :]


@in_kernels
def _channel_shift(shift, batch, shift_row, channel, held):
    if shift is None:
        return tl.zeros([channel.shape[0]], tl.float32)
    else:  # noqa: RET505 - a kernel returns once on each side of what is known at compile time
        return tl.load(shift + batch * shift_row + channel, mask=held, other=0.0).to(tl.float32)


@in_kernels
def _load(x, plus, at, seen):
    value = tl.load(x + at, mask=seen, other=0.0).to(tl.float32)
    if plus is not None:
        value += tl.load(plus + at, mask=seen, other=0.0).to(tl.float32)
    return value


@in_kernels
def _to_groups(value, member):
    return tl.sum(tl.where(member, value[:, None], 0.0), 0)


@in_kernels
def _to_channels(value, member):
    return tl.sum(tl.where(member, value[None, :], 0.0), 1)


@in_kernels
def _pool(mean, m2, count):
    """Mean and sum of squared deviations of the union over axis 0 (Chan, Golub & LeVeque 1983)."""
    total = tl.maximum(tl.sum(count, 0), 1.0)
    pooled = tl.sum(count * mean, 0) / total
    deviation = mean - pooled[None, :]
    return pooled, tl.sum(m2 + count * deviation * deviation, 0)


@in_kernels
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


@kernel("ROWS", "rows", "shift_row", "x_images", "plus_images")
def moments_kernel(
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


@in_kernels
def _pool_chunks(partial, batch, group, exists, ROWS, rows, chunks, C, GROUPS, CHUNKS):
    chunk = tl.arange(0, CHUNKS)
    partial += (batch * chunks + chunk)[:, None] * 2 * GROUPS + group[None, :]
    seen = (chunk < chunks)[:, None] & exists[None, :]
    mean = tl.load(partial, mask=seen, other=0.0)
    m2 = tl.load(partial + GROUPS, mask=seen, other=0.0)
    count = tl.minimum(ROWS - chunk * rows, rows) * (C // GROUPS)
    return _pool(mean, m2, tl.where(seen, count[:, None].to(tl.float32), 0.0))


@kernel("ROWS", "rows", "shift_row", "chunks")
def combine_kernel(
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


@in_kernels
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


@kernel("ROWS", "x_images", "plus_images")
def apply_kernel(
    x, plus, affine, bias, y, ROWS, x_images, plus_images, C: tl.constexpr, SILU: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    batch = (tl.num_programs(2) - 1 - tl.program_id(2)).to(tl.int64)  # the cache holds the images summed last
    tiles: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    tile, block = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    channel = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    held = channel < C
    affine += batch * 2 * C + channel
    centre, factor = tl.load(affine, mask=held, other=0.0), tl.load(affine + C, mask=held, other=0.0)
    level = tl.load(bias + channel, mask=held, other=0.0)
    x += batch % x_images * ROWS * C
    if plus is not None:
        plus += batch % plus_images * ROWS * C
    at, seen = _pixels(block * BLOCK_ROWS, ROWS, channel, held, C, BLOCK_ROWS)
    _write(x, plus, y + batch * ROWS * C, at, seen, centre, factor, level, SILU)


@in_kernels
def _write(x, plus, y, at, seen, centre, factor, level, SILU):
    value = (_load(x, plus, at, seen) - centre[None, :]) * factor[None, :] + level[None, :]
    if SILU:
        value *= tl.sigmoid(value)
    tl.store(y + at, value, mask=seen)


@kernel("ROWS", "rows", "shift_row", "x_images", "plus_images")
def whole_kernel(
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


@in_kernels
def _channel_constants(weight, bias, shift, statistics, batch, shift_row, channel, held, C, GROUPS):
    """What to subtract from x, 1/std, weight and bias."""
    statistics += batch * 2 * GROUPS + channel // (C // GROUPS)
    centre = tl.load(statistics, mask=held, other=0.0) - _channel_shift(shift, batch, shift_row, channel, held)
    rstd = tl.load(statistics + GROUPS, mask=held, other=0.0)
    weight = tl.load(weight + channel, mask=held, other=0.0).to(tl.float32)
    bias = tl.load(bias + channel, mask=held, other=0.0).to(tl.float32)
    return centre, rstd, weight, bias


@in_kernels
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


@in_kernels
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


@kernel("ROWS", "rows", "shift_row")
def gradient_sums_kernel(
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


@in_kernels
def _sum_chunks(sums, batch, width, index, exists, CHUNKS):
    """Sum over axis 1 of (B, chunks, width), at the columns `index`."""
    chunk, chunks = tl.arange(0, CHUNKS), tl.num_programs(1)
    sums += (batch * chunks + chunk)[:, None] * width + index[None, :]
    return tl.sum(tl.load(sums, mask=(chunk < chunks)[:, None] & exists[None, :], other=0.0), 0)


@kernel("ROWS", "rows", "shift_row")
def backward_kernel(
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
