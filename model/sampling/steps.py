"""Denoising steps: from the network's predictions to the next states, in float32."""

from collections.abc import Callable

import torch
from torch import Tensor

from model.resampling import resample
from model.sampling.noise import Noise
from model.sampling.solvers import Step, Steps

TakeSteps = Callable[..., tuple[Tensor, Tensor]]  # `take_steps`, or what computes the same


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
    """-> the state after the last step, and its ŷ_0."""
    nan = float("nan")  # what overflowed must show
    for order, prediction in zip(orders, predictions.float().nan_to_num(nan, nan, nan), strict=True):
        x0 = clean_estimate(steps[order], x, prediction, lr_image, consistency).clamp(-1, 1)
        x = next_state(steps[order], x, x0, x0_before, noise, order)
        x0_before = x0
        if callback:
            callback(order, x, x0)
    return x, x0


def clean_estimate(step: Step, x: Tensor, prediction: Tensor, lr_image: Tensor, consistency: int) -> Tensor:
    """ŷ_0 of the state and the prediction, not clamped yet, after `consistency` rounds of back-projection onto the LR
    image (Irani & Peleg 1991): ŷ_0 += up(x_lr - down(ŷ_0))."""
    x0 = torch.addcmul(step.from_prediction * prediction, step.from_state, x)
    for _ in range(consistency):
        x0 = x0 + resample(lr_image - resample(x0, lr_image.shape[2:]), x0.shape[2:])
    return x0


def next_state(
    step: Step, x: Tensor, x0: Tensor, x0_before: Tensor | None, noise: Noise | None = None, order: int = 0
) -> Tensor:
    """The state after one step of the solver: the terms of `model.sampling.solvers`, those that are zero left out."""
    x_next = step.clean * x0
    if step.state is not None:
        x_next = torch.addcmul(x_next, step.state, x)
    if step.previous is not None:
        x_next = torch.addcmul(x_next, step.previous, x0_before)  # type: ignore[arg-type]  # there is one by then
    if step.noise is not None and noise is not None:
        x_next = torch.addcmul(x_next, step.noise, noise(order + 1, x.shape))
    return x_next
