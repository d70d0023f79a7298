"""Several denoising steps in one kernel: they are pointwise, and one after the other reads and writes the state each
time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from model.blocks import ceil_div
from model.fast.triton_support import HAS_KERNELS, KERNEL_DEVICE, kernel, tl
from model.sampling import steps as plain
from model.sampling.noise import Noise
from model.sampling.solvers import Steps

ELEMENTS = 512  # of a program: few, as one image is to fill the GPU


def take_steps(
    steps: Steps,
    orders: range,
    x: Tensor,
    x0_before: Tensor | None,
    predictions: Tensor,
    noise: Noise,
    lr_image: Tensor,
    consistency: int = 0,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """What `model.sampling.steps.take_steps` computes; one kernel on a GPU, where nothing is asked in between."""
    if HAS_KERNELS and x.device.type == KERNEL_DEVICE and not consistency and not callback:
        return _take_at_once(steps, orders, x, x0_before, predictions, noise)
    return plain.take_steps(steps, orders, x, x0_before, predictions, noise, lr_image, consistency, callback)


def _take_at_once(
    steps: Steps, orders: range, x: Tensor, x0_before: Tensor | None, predictions: Tensor, noise: Noise
) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    drawn = None
    if any(map(steps.adds_noise, orders)):
        each = [noise(n + 1, x.shape) if steps.adds_noise(n) else x.new_zeros(x.shape) for n in orders]
        drawn = (each[0] if len(each) == 1 else torch.stack(each)).contiguous()
    if predictions.stride(3) != predictions.shape[4] * predictions.stride(4):  # rows that do not follow one another
        predictions = predictions.contiguous()
    y, y0 = torch.empty_like(x), torch.empty_like(x)
    pixels = x.shape[2] * x.shape[3]
    with torch.cuda.device_of(x):
        _steps_kernel[ceil_div(3 * pixels, ELEMENTS), len(x)](
            x, x0_before, predictions, drawn, steps.table, y, y0, orders.start, len(orders), pixels, len(x),
            *(predictions.stride(n) for n in (0, 1, 2, 4)), ELEMENTS, num_warps=2,
        )  # fmt: skip
    return y, y0


@kernel("first", "count", "pixels", "images", "step_stride", "image_stride", "channel_stride", "pixel_stride")
def _steps_kernel(  # type: ignore[no-untyped-def]
    x, x0_before, predictions, drawn, table, y, y0,  # table (S, 6): the fields of Step
    first, count, pixels, images, step_stride, image_stride, channel_stride, pixel_stride, BLOCK: tl.constexpr,
):  # fmt: skip
    at, image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    size = 3 * pixels
    seen = at < size
    state = tl.load(x + image * size + at, mask=seen, other=0.0)
    clean = tl.zeros([BLOCK], tl.float32)
    if x0_before is not None:
        clean = tl.load(x0_before + image * size + at, mask=seen, other=0.0)
    predictions += image * image_stride + at // pixels * channel_stride + at % pixels * pixel_stride
    if drawn is not None:
        drawn += image * size + at
    table += first * 6
    for _ in range(count):
        prediction = tl.load(predictions, mask=seen, other=0.0).to(tl.float32)
        prediction = tl.where(tl.abs(prediction) < float("inf"), prediction, float("nan"))  # what overflowed must show
        before = clean
        clean = tl.load(table) * state + tl.load(table + 1) * prediction
        clean = tl.clamp(clean, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
        state = tl.load(table + 2) * state + tl.load(table + 3) * clean + tl.load(table + 4) * before
        if drawn is not None:
            state += tl.load(table + 5) * tl.load(drawn, mask=seen, other=0.0)
            drawn += images.to(tl.int64) * size
        predictions += step_stride
        table += 6
    tl.store(y + image * size + at, state, mask=seen)
    tl.store(y0 + image * size + at, clean, mask=seen)
