"""Sampling: from noise to an image, the encoder run once a group and the decoder once for all steps of the group."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from model import fast
from model.network import Network
from model.resampling import resample
from model.sampling.checks import check_inputs, check_settings
from model.sampling.group_decoding import DECODES, predictions_of_group, runs_of_decoder
from model.sampling.noise import Noise, noise_of_chain
from model.sampling.plan import SamplingPlan
from model.sampling.trajectory import trajectory_of

__all__ = ["DECODES", "SamplingPlan", "sample"]


# no_grad and not inference_mode: a table that the network makes here and keeps may take part in training later.
@torch.no_grad()
def sample(
    network: Network,
    lr_image: Tensor,  # (B, 3, h, w) in [-1, 1]
    size: tuple[int, int],  # (H, W) of the result
    plan: SamplingPlan,
    solver: str = "ddpm",  # ddpm | ddim | dpm++
    seeds: Sequence[int] | None = None,  # one for each image; None: 0 .. B-1
    *,
    noise: Noise | None = None,  # noise(i, shape) in place of the seeds: i = 0 for x_T, order + 1 for a step
    eta: float = 0.0,  # of ddim alone: from 0, deterministic, to 1, as noisy as ddpm
    consistency: int = 0,  # rounds of back-projection of each ŷ_0 onto the LR image
    start: float | None = None,  # begin at (the timestep nearest to) this noise level, from the up-sampled LR image
    prior_noise: float = 0.0,  # weight of the initial noise added before key steps; 0.003 in the literature
    decode: str = "every",  # every step of a group | its ends, predictions between them interpolated | its first alone
    decode_batch: int | None = None,  # the most steps decoded at once; None: a whole group
    scale: float | Tensor = 1.0,  # the network's scale p in [0, 1], one or (B,)
    callback: Callable[[int, int, Tensor, Tensor], None] | None = None,  # (order, timestep, x, ŷ_0) after each step
    compiled: bool = True,  # a fast network's launches as CUDA graphs, captured once for each shape
) -> Tensor:
    """Super-resolve a batch of LR images by the reverse diffusion: -> (B, 3, H, W) in [-1, 1], float32.

    An image depends on its LR image, its seed and the settings, on nothing else in the batch. The state and the solver
    are float32 whatever the network computes in. The network samples in eval mode; every module's mode is put back.
    Raises ModelError where an argument is out of its range or does not fit the others.
    """
    check_settings(eta, consistency, start, prior_noise, decode, decode_batch)
    check_inputs(network, lr_image, size, plan, scale)
    batch = len(lr_image)
    device = next((parameter.device for parameter in network.parameters()), lr_image.device)
    lr_image = lr_image.to(device, torch.float32)
    noise = noise_of_chain(noise, seeds, batch, device)
    trajectory = trajectory_of(network.schedule, plan, solver, network.prediction, eta, start, device)
    plan, steps, levels = trajectory.plan, trajectory.steps, trajectory.levels[:, None].expand(-1, batch)
    told = with_timesteps(callback, plan.timesteps)

    with fast.for_sampling(network, compiled) as (denoiser, take_steps), evaluating(denoiser):
        runs = runs_of_decoder(plan, decode_batch, captured=isinstance(denoiser, fast.GraphedNetwork))
        condition = denoiser.condition(lr_image, size, scale)
        x = initial_noise = noise(0, (batch, 3, *size))
        if start is not None:
            x = noisy(resample(lr_image, size), initial_noise, trajectory.alpha_bar)
        x0 = None
        for group in plan.groups:
            if prior_noise and 2 * group.start >= plan.steps:
                x = x + prior_noise * initial_noise
            state = denoiser.encode(x, levels[group.start], condition)
            decoder = partial(denoiser.decode, state, condition=condition)
            for orders, predictions in predictions_of_group(decoder, levels, group, decode, runs):
                x, x0 = take_steps(steps, orders, x, x0, predictions, noise, lr_image, consistency, told)
    return x


def with_timesteps(
    callback: Callable[[int, int, Tensor, Tensor], None] | None, timesteps: Sequence[int]
) -> Callable[[int, Tensor, Tensor], None] | None:
    """A callback(order, timestep, x, ŷ_0) as one that need not be told the timestep."""
    if callback is None:
        return None
    return lambda order, x, x0: callback(order, timesteps[order], x, x0)


def noisy(image: Tensor, noise: Tensor, alpha_bar: float) -> Tensor:
    """A draw from q(y_t | image): γ·image + sqrt(1-γ²)·noise, γ² = ᾱ_t."""
    return alpha_bar**0.5 * image + (1 - alpha_bar) ** 0.5 * noise


@contextmanager
def evaluating(denoiser: nn.Module | fast.GraphedNetwork) -> Iterator[None]:
    """Eval mode inside; after, every module has the mode it had. A GraphedNetwork has no other mode."""
    training = []
    if isinstance(denoiser, nn.Module):
        training = [module for module in denoiser.modules() if module.training]
        if training:
            denoiser.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
