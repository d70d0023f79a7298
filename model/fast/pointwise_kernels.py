"""The Triton kernels of what stands between the convolutions, for images of so many pixels in C channels."""

# mypy: allow-untyped-defs

from __future__ import annotations

from model.fast.triton_support import kernel, tl


@kernel("pixels", "biases", "images", "second_images", "third_images")
def add_kernel(
    bias, first, second, third, y, pixels, biases, images, second_images, third_images,
    C: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, GAIN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    size = pixels * C
    at, image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    seen = at < size
    value = tl.load(bias + image % biases * C + at % C, mask=seen, other=0.0).to(tl.float32)
    value += tl.load(first + image % images * size + at, mask=seen, other=0.0).to(tl.float32)
    if second is not None:
        value += tl.load(second + image % second_images * size + at, mask=seen, other=0.0).to(tl.float32)
    if third is not None:
        value += tl.load(third + image % third_images * size + at, mask=seen, other=0.0).to(tl.float32)
    if ACTIVATION == "relu":
        value = tl.where(value < 0, 0.0, value)  # NaN, of an overflow, stays NaN
    elif ACTIVATION == "silu":
        value = value / (1 + tl.exp(-value))
    elif ACTIVATION == "leaky_relu":
        value = tl.where(value >= 0, value, SLOPE * value) * GAIN
    tl.store(y + image * size + at, value, mask=seen)


@kernel("pixels", "images")
def join_kernel(
    x, skip, y, pixels, images, C: tl.constexpr, TAKEN: tl.constexpr, C_SKIP: tl.constexpr, BLOCK: tl.constexpr
):
    at, image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    width: tl.constexpr = C + TAKEN
    seen, pixel, channel = at < pixels * width, at // width, at % width
    x += image * pixels * C
    skip += image % images * pixels * C_SKIP
    value = tl.load(x + pixel * C + channel, mask=seen & (channel < C), other=0.0)
    taken = tl.load(skip + pixel * C_SKIP + channel - C, mask=seen & (channel >= C), other=0.0)
    tl.store(y + image * pixels * width + at, tl.where(channel < C, value, taken), mask=seen)


@kernel("pixels", "images")
def modulate_kernel(
    h, gain, shift, bias, y, pixels, images,
    C: tl.constexpr, SLOPE: tl.constexpr, GAIN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    size = pixels * C
    at, image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    seen, channel, source = at < size, at % C, image % images
    value = tl.load(h + image * size + at, mask=seen, other=0.0).to(tl.float32)
    value *= tl.load(gain + source * C + channel, mask=seen, other=0.0).to(tl.float32)
    value += tl.load(shift + source * size + at, mask=seen, other=0.0).to(tl.float32)
    value += tl.load(bias + channel, mask=seen, other=0.0).to(tl.float32)
    value = tl.where(value >= 0, value, SLOPE * value) * GAIN
    tl.store(y + image * size + at, value, mask=seen)


@kernel("source_pixels", "source_width", "pixels", "width")
def spread_kernel(
    h, rows, columns, per_row, per_column, y, source_pixels, source_width, pixels, width,
    C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    size = pixels * C
    at, image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    seen, channel, pixel = at < size, at % C, at // C
    i, j = pixel // width, pixel % width
    row, column = tl.load(rows + i, mask=seen, other=0), tl.load(columns + j, mask=seen, other=0)
    h += image * source_pixels * C
    value = tl.load(h + (row * source_width + column) * C + channel, mask=seen, other=0.0).to(tl.float32)
    value += tl.load(per_row + i * C + channel, mask=seen, other=0.0).to(tl.float32)
    value += tl.load(per_column + j * C + channel, mask=seen, other=0.0).to(tl.float32)
    tl.store(y + image * size + at, value, mask=seen)


@kernel("ROWS", "rows")
def column_sums_kernel(x, partial, ROWS, rows, C: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    first = tl.program_id(1).to(tl.int64) * rows
    last = tl.minimum(first + rows, ROWS)
    total = tl.zeros([BLOCK_ROWS, BLOCK_C], tl.float32)
    for start in range(first, last, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        seen = (row < last)[:, None] & (channel < C)[None, :]
        total += tl.load(x + row[:, None] * C + channel[None, :], mask=seen, other=0.0).to(tl.float32)
    tl.store(partial + tl.program_id(1) * C + channel, tl.sum(total, 0), mask=channel < C)
