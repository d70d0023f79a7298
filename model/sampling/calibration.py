"""Calibration: how much the encoder's state changes along a denoising chain, from which `auto:N` picks key steps; and,
to compare, how much the features of the decoder do."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.network import Network
from model.sampler import SamplingPlan, sample
from model.sampling.key_steps import EncoderChange
from model.unet import EncoderState, UNetDecoder, UNetEncoder

BUCKETS = 4096  # numbers kept of each tensor of a state: distances are then right to 2 or 3 %


class Feature(NamedTuple):
    """A tensor that the UNet computes at every step of a chain."""

    part: str  # skip or bottleneck, of the encoder; decoder: what one of its blocks returns
    level: int  # of the UNet; 0 has the size of the image, the next is half as high and wide
    steps: Tensor  # (B, T, n): its sketch at each step


def encoder_change(
    network: Network,  # in eval mode
    lr_image: Tensor,  # (B, 3, h, w) in [-1, 1], on the network's device
    size: tuple[int, int],  # (H, W) of the result
    steps: int = 100,  # timesteps at which the state is measured, spread over the schedule
    solver: str = "ddim",
    seed: int = 0,  # of the noise
    *,
    scale: float | Tensor = 1.0,
    consistency: int = 0,
    buckets: int = BUCKETS,
) -> EncoderChange:
    """How far the encoder's states at any two steps of a chain are from each other, the mean over the images.

    The distance of two states is the mean over their tensors, the skips and the bottleneck, of |a - b|² / |a|², with
    |a|² the mean over the chain: no tensor counts for more because it is larger. The chain is `chain_features`'.
    """
    timesteps, features = chain_features(
        network, lr_image, size, steps, solver, seed,
        scale=scale, consistency=consistency, buckets=buckets, decoder=False,
    )  # fmt: skip
    distances = [relative_distance(feature.steps) for feature in features]
    return EncoderChange(timesteps, torch.stack(distances).mean(dim=0).float())


@torch.no_grad()
def chain_features(
    network: Network,
    lr_image: Tensor,
    size: tuple[int, int],
    steps: int,
    solver: str = "ddim",
    seed: int = 0,
    *,
    scale: float | Tensor = 1.0,
    consistency: int = 0,
    buckets: int = BUCKETS,
    decoder: bool = True,  # whether to look at the decoder too
) -> tuple[tuple[int, ...], list[Feature]]:
    """The timesteps of a chain and, in the order of the network, the features at each; arguments as above.

    The features are those of a real chain, without reuse: along it x_t holds as much of the image as sampling has found
    by then, and changes as sampling changes it; a true image under noise would show the encoder what it never sees.
    The chain begins with the up-sampled LR image under all the noise of the schedule: as good as noise alone where that
    leaves nothing of an image, and as training saw it where it leaves something. DDIM suits chains of any solver: the
    noise that ddpm draws at each step changes the state too, and would hide where the image changes it.
    """
    schedule = network.schedule
    plan = SamplingPlan.parse("none", min(steps, schedule.n_timestep), schedule.n_timestep)
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device draws the same
    blocks = list(chain(*network.decoder.levels)) if decoder else []  # type: ignore[arg-type]
    with ExitStack() as hooks:
        calls = [hooks.enter_context(sketched(module, buckets)) for module in (network.encoder, *blocks)]
        sample(
            network, lr_image, size, plan, solver, noise=lambda i, shape: torch.randn(shape, generator=generator),
            start=float(schedule.noise_levels[-1]), scale=scale, consistency=consistency, compiled=False,
        )  # fmt: skip
    tensors = [torch.stack(steps, dim=1) for steps_of_module in calls for steps in zip(*steps_of_module, strict=True)]
    places = places_of_encoder(network.encoder) + (places_of_decoder(network.decoder) if decoder else [])
    return plan.timesteps, [Feature(*place, steps) for place, steps in zip(places, tensors, strict=True)]


def places_of_encoder(encoder: UNetEncoder) -> list[tuple[str, int]]:
    """(part, level) of each tensor of its state."""
    levels = [0]
    for level, blocks in enumerate(encoder.levels):
        levels += [level] * len(blocks) + [level + 1]  # type: ignore[arg-type]
    return [*(("skip", level) for level in levels[:-1]), ("bottleneck", len(encoder.levels) - 1)]


def places_of_decoder(decoder: UNetDecoder) -> list[tuple[str, int]]:
    """(part, level) of what each block returns, from the coarsest level to the finest."""
    coarsest = len(decoder.levels) - 1
    return [("decoder", coarsest - n) for n, blocks in enumerate(decoder.levels) for _ in blocks]  # type: ignore[attr-defined]


@contextmanager
def sketched(module: nn.Module, buckets: int) -> Iterator[list[list[Tensor]]]:
    """A list to which each call of the module inside adds the sketches of the tensors that it returns."""
    calls, sketch = [], Sketch(buckets)
    hook = module.register_forward_hook(lambda module, inputs, output: calls.append(sketch(output)))
    try:
        yield calls
    finally:
        hook.remove()


def relative_distance(x: Tensor) -> Tensor:
    """One tensor of the states at T steps, (B, T, n) -> float64 (T, T) on the CPU: the mean over the images of
    |x_i - x_j|² / mean_k |x_k|². A tensor that is 0 throughout does not change."""
    x = x.cpu().double()
    energy = x.square().sum(dim=2).mean(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    return (squared_distance(x) / energy[:, None, None]).mean(dim=0)


def cosine_similarity(x: Tensor) -> Tensor:
    """One tensor at T steps, (B, T, n) -> float64 (T, T) on the CPU: the mean over the images of cos(x_i, x_j), in
    [-1, 1]. Of two tensors that are 0 it is 1."""
    directions = nn.functional.normalize(x.cpu().double(), dim=2, eps=torch.finfo(torch.float64).tiny)
    return (1 - squared_distance(directions) / 2).mean(dim=0)


def squared_distance(x: Tensor) -> Tensor:
    """(B, T, n) -> (B, T, T); small ones are as exact as large ones."""
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()


class Sketch:
    """Shortens tensors so that the distances between them nearly stay.

    Whole, the states of a chain would take gigabytes. A call takes an EncoderState, or one tensor. Each tensor in it,
    (B, C, H, W), becomes K numbers an image, (B, K) in float32. Its elements get random signs, which are drawn once,
    and element i is added to sum i mod K (count sketch, Charikar et al. 2002). The squared distance of two sketches is
    that of the tensors, with a random relative error of sqrt(2/K) where their difference is spread evenly over the
    sums. A tensor of at most K elements stays as it is.
    """

    def __init__(self, buckets: int, seed: int = 0) -> None:
        self.buckets = buckets
        self.generator = torch.Generator().manual_seed(seed)
        self.signs: list[Tensor] = []  # of each tensor, int8

    def __call__(self, state: EncoderState | Tensor) -> list[Tensor]:
        tensors = [tensor.flatten(1) for tensor in tensors_of(state)]
        if not self.signs:
            self.signs = [self.draw_signs(tensor) for tensor in tensors]
        return [self.sums(tensor.float() * signs) for tensor, signs in zip(tensors, self.signs, strict=True)]

    def draw_signs(self, x: Tensor) -> Tensor:
        signs = torch.randint(2, x.shape[1:], generator=self.generator, dtype=torch.int8) * 2 - 1
        return signs.to(x.device)

    def sums(self, x: Tensor) -> Tensor:
        """(B, n) -> (B, K): element i is added to sum i mod K."""
        if x.shape[1] <= self.buckets:
            return x
        padding = -x.shape[1] % self.buckets
        return nn.functional.pad(x, (0, padding)).unflatten(1, (-1, self.buckets)).sum(dim=1)


def tensors_of(state: EncoderState | Tensor) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else (*state.skips, state.bottleneck)
