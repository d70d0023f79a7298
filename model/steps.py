"""Denoising steps: from the network's predictions to the next states, in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from model.diffusion import resize
from model.kernels import HAS_KERNELS, KERNEL_DEVICE, ceil_div, jit, tl
from model.solvers import Step, Steps

Noise = Callable[[int, tuple[int, ...]], Tensor]

ELEMENTS = 512  # of a program: few, as one image is to fill the GPU


def take_steps(
    steps: Steps,
    orders: range,  # of the K steps to take
    x: Tensor,  # (B, 3, H, W), the state before the first
    x0_before: Tensor | None,  # ŷ_0 of the step before, None at the start of the chain
    predictions: Tensor,  # (K, B, 3, H, W)
    noise: Noise,
    lr_image: Tensor,
    consistency: int = 0,  # rounds of back-projection onto lr_image
    callback: Callable[[int, Tensor, Tensor], None] | None = None,  # (order, x, ŷ_0) after each step
) -> tuple[Tensor, Tensor]:
    """-> the state after the last step, and its ŷ_0. One kernel on a GPU, where nothing is asked in between."""
    if HAS_KERNELS and x.device.type == KERNEL_DEVICE and not consistency and not callback:
        return _take_at_once(steps, orders, x, x0_before, predictions, noise)
    nan = float("nan")  # what overflowed must show
    for order, prediction in zip(orders, predictions.float().nan_to_num(nan, nan, nan), strict=True):
        x0 = clean_estimate(steps[order], x, prediction, lr_image, consistency)
        x = next_state(steps[order], x, x0, x0_before, noise, order)
        x0_before = x0
        if callback:
            callback(order, x, x0)
    return x, x0_before


def clean_estimate(step: Step, x: Tensor, prediction: Tensor, lr_image: Tensor, consistency: int) -> Tensor:
    """ŷ_0 in [-1, 1] of the state and the prediction, after `consistency` rounds of back-projection onto the LR image
    (Irani & Peleg 1991): ŷ_0 += up(x_lr - down(ŷ_0))."""
    x0 = torch.addcmul(step.from_prediction * prediction, step.from_state, x)
    for _ in range(consistency):
        x0 = x0 + resize(lr_image - resize(x0, lr_image.shape[2:]), x0.shape[2:])
    return x0.clamp(-1, 1)


def next_state(step: Step, x: Tensor, x0: Tensor, x0_before: Tensor | None, noise: Noise, order: int) -> Tensor:
    """The state after one step of the solver: the terms of `model.solvers`, those that are zero left out."""
    x_next = step.clean * x0
    if step.state is not None:
        x_next = torch.addcmul(x_next, step.state, x)
    if step.previous is not None:
        x_next = torch.addcmul(x_next, step.previous, x0_before)
    if step.noise is not None:
        x_next = torch.addcmul(x_next, step.noise, noise(order + 1, x.shape))
    return x_next


def _take_at_once(steps, orders, x, x0_before, predictions, noise):
    x = x.contiguous()
    drawn = None
    if any(map(steps.adds_noise, orders)):
        drawn = [noise(n + 1, x.shape) if steps.adds_noise(n) else x.new_zeros(x.shape) for n in orders]
        drawn = (drawn[0] if len(drawn) == 1 else torch.stack(drawn)).contiguous()
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


@jit
def _steps_kernel(
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
