"""Sampling: from noise to an image, the encoder run once a group and the decoder once for all steps of the group."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import index

import torch
from torch import Tensor, nn

from model import fast
from model.errors import ModelError
from model.plan import SamplingPlan, is_int
from model.resampling import resample
from model.solvers import solver_steps
from model.steps import Noise

__all__ = ["DECODES", "SamplingPlan", "sample"]

DECODES = ("every", "ends", "first")
MOST_LENGTHS = 8  # of runs of the decoder: each is captured by itself, which takes time and memory


# no_grad and not inference_mode: a table that the network makes here and keeps may take part in training later.
@torch.no_grad()
def sample(
    network: nn.Module,
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
    compiled: bool = True,  # capture the network's launches once for each shape, where the device can replay them
) -> Tensor:
    """Super-resolve a batch of LR images by the reverse diffusion: -> (B, 3, H, W) in [-1, 1], float32.

    An image depends on its LR image, its seed and the settings, on nothing else in the batch. The state and the solver
    are float32 whatever the network computes in. The network samples in eval mode; every module's mode is put back.
    Raises ModelError where an argument is out of its range or does not fit the others.
    """
    check_settings(eta, consistency, start, prior_noise, decode, decode_batch)
    check_inputs(network, lr_image, size, plan, scale)
    batch, shape = len(lr_image), (len(lr_image), 3, *size)
    device = next((parameter.device for parameter in network.parameters()), lr_image.device)
    lr_image = lr_image.to(device, torch.float32)
    if noise is None:
        noise = seeded_noise(range(batch) if seeds is None else seeds, batch, device)
    else:
        noise = checked_noise(noise, device)
    if start is not None:
        plan = plan.within(network.schedule.timestep_of(start) + 1)
    timesteps = plan.timesteps
    alphas_cumprod = network.schedule.alphas_cumprod[list(timesteps)]
    steps = solver_steps(solver, network.prediction, alphas_cumprod, eta, device)
    levels = alphas_cumprod.sqrt().float().to(device)[:, None].expand(-1, batch)  # (S, B)

    told = callback and (lambda order, x, x0: callback(order, timesteps[order], x, x0))

    with fast.for_sampling(network, compiled) as (network, take_steps), evaluating(network):
        condition = network.condition(lr_image, size, scale)
        x = initial_noise = noise(0, shape)
        if start is not None:
            x = noisy(resample(lr_image, size), initial_noise, float(alphas_cumprod[0]))
        x0, runs = None, runs_of_decoder(plan, decode_batch, captured=isinstance(network, fast.GraphedNetwork))
        for group in plan.groups:
            if prior_noise and 2 * group.start >= plan.steps:
                x = x + prior_noise * initial_noise
            state = network.encode(x, levels[group.start], condition)
            decoder = partial(network.decode, state, condition=condition)
            for orders, predictions in predictions_of_group(decoder, levels, group, decode, runs):
                x, x0 = take_steps(steps, orders, x, x0, predictions, noise, lr_image, consistency, told)
    return x


def predictions_of_group(decoder, levels, group, decode, runs) -> Iterator[tuple[range, Tensor]]:
    """(orders, their predictions (K, B, 3, H, W)) of a group, in the runs that runs(group) gives; decoder takes levels
    (K, B)."""
    last = group.stop - 1
    if decode == "every" or len(group) == 1:
        for orders in runs(group):
            yield orders, decoder(levels[orders.start : orders.stop])
    elif decode == "first":
        held = decoder(levels[group.start : group.start + 1])
        yield group, held.expand(len(group), *held.shape[1:])
    else:
        ends = decoder(levels[group.start : group.stop : last - group.start]).float()
        weight = torch.linspace(0, 1, len(group), device=ends.device)[:, None, None, None, None]
        yield group, torch.lerp(ends[:1], ends[1:], weight)


def noisy(image: Tensor, noise: Tensor, alpha_bar: float) -> Tensor:
    """A draw from q(y_t | image): γ·image + sqrt(1-γ²)·noise, γ² = ᾱ_t."""
    return alpha_bar**0.5 * image + (1 - alpha_bar) ** 0.5 * noise


def runs_of_decoder(plan: SamplingPlan, most: int | None, captured: bool) -> Callable[[range], Iterator[range]]:
    """How to decode a group: a function from its orders to runs of at most `most`.

    Where runs are captured and would have many lengths, as groups of `auto` and `pro` have, they are powers of two.
    """
    lengths = {len(run) for group in plan.groups for run in split(group, most)}
    return partial(split, most=most, powers_of_two=captured and len(lengths) > MOST_LENGTHS)


def split(orders: range, most: int | None, powers_of_two: bool = False) -> Iterator[range]:
    """The orders of a group in runs of at most `most`, the longest first."""
    first = orders.start
    while first < orders.stop:
        length = min(most or len(orders), orders.stop - first)
        if powers_of_two:
            length = 1 << (length.bit_length() - 1)
        yield range(first, first + length)
        first += length


def seeded_noise(seeds: Sequence[int], batch: int, device: torch.device) -> Noise:
    """Gaussian noise of which each image draws its share from a generator of its own, call after call."""
    try:
        generators = [torch.Generator(device).manual_seed(index(seed)) for seed in seeds]
    except (TypeError, ValueError, RuntimeError):
        raise ModelError(f"seeds must be whole numbers below 2^64, one for each image, not {seeds!r}") from None
    require(len(generators) == batch, f"{len(generators)} seeds for {batch} images: give one for each")

    def noise(i, shape):
        drawn = torch.empty(shape, device=device)
        for image, generator in zip(drawn, generators, strict=True):
            image.normal_(generator=generator)
        return drawn

    return noise


def checked_noise(noise: Noise, device: torch.device) -> Noise:
    """The caller's noise on the device, refused where it has not the shape that was asked for."""

    def checked(i, shape):
        drawn = noise(i, shape)
        require(tuple(drawn.shape) == tuple(shape), f"noise({i}) has shape {(*drawn.shape,)}, not {(*shape,)}")
        return drawn.to(device, torch.float32)

    return checked


@contextmanager
def evaluating(network: nn.Module):
    """Eval mode inside; after, every module has the mode it had. A GraphedNetwork has no other mode."""
    if not isinstance(network, nn.Module):
        yield
        return
    training = [module for module in network.modules() if module.training]
    if training:
        network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def check_settings(eta, consistency, start, prior_noise, decode, decode_batch):
    require(decode in DECODES, f"decode must be one of {', '.join(DECODES)}, not {decode!r}")
    require(is_number(eta) and 0 <= eta <= 1, f"eta must lie in [0, 1], not {eta!r}")
    require(is_int(consistency) and consistency >= 0, f"consistency must be a number of rounds, not {consistency!r}")
    require(start is None or (is_number(start) and 0 < start < 1), f"start must lie in (0, 1), not {start!r}")
    require(is_number(prior_noise) and 0 <= prior_noise < 1, f"prior_noise must lie in [0, 1), not {prior_noise!r}")
    require(
        decode_batch is None or (is_int(decode_batch) and decode_batch >= 1),
        f"decode_batch must be a number of steps of at least 1, not {decode_batch!r}",
    )


def check_inputs(network, lr_image, size, plan, scale):
    require(
        lr_image.dim() == 4 and lr_image.shape[1] == 3 and lr_image.is_floating_point() and lr_image.numel() > 0,
        f"lr_image must be float (B, 3, h, w) in [-1, 1], not {lr_image.dtype} {(*lr_image.shape,)}",
    )
    require(
        isinstance(size, tuple | list) and len(size) == 2 and all(is_int(side) and side > 0 for side in size),
        f"size must be (height, width), two whole numbers above 0, not {size!r}",
    )
    require(isinstance(plan, SamplingPlan), f"plan must be a SamplingPlan, as SamplingPlan.parse makes, not {plan!r}")
    n_timestep = network.schedule.n_timestep
    require(
        plan.n_timestep == n_timestep,
        f"the plan is for a schedule of {plan.n_timestep} timesteps, the network's has {n_timestep}",
    )
    shape = tuple(getattr(scale, "shape", ()))
    require(shape in ((), (len(lr_image),)), f"scale has shape {shape} for {len(lr_image)} images: give one or B")


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def require(condition: bool, message: str):
    if not condition:
        raise ModelError(message)
