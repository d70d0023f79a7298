"""Calibration: how much the encoder's state changes along a denoising chain, from which `auto:N` picks key steps."""

import torch
from torch import Tensor, nn

from model.diffusion import resize
from model.key_steps import EncoderChange
from model.sampler import SamplingPlan, sample
from model.unet import EncoderState

BUCKETS = 4096  # numbers kept of each tensor of a state: distances are then right to 2 or 3 %


@torch.no_grad()
def encoder_change(
    network: nn.Module,  # in eval mode
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

    The states are those of a real chain, without reuse: along it x_t holds as much of the image as sampling has found
    by then, and changes as sampling changes it; a true image under noise would show the encoder what it never sees.
    The chain begins with the up-sampled LR image under all the noise of the schedule: as good as noise alone where that
    leaves nothing of an image, and as training saw it where it leaves something. DDIM suits chains of any solver: the
    noise that ddpm draws at each step changes the state too, and would hide where the image changes it.

    The distance of two states is the mean over their tensors, the skips and the bottleneck, of |a - b|² / |a|², with
    |a|² the mean over the chain: no tensor counts for more because it is larger.
    """
    schedule = network.schedule
    plan = SamplingPlan.parse("none", min(steps, schedule.n_timestep), schedule.n_timestep)
    levels = schedule.noise_levels[list(plan.timesteps)].float().to(lr_image.device)
    condition = network.condition(lr_image, size, scale)
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device draws the same
    sketch, sketches = Sketch(buckets), []

    def look(order, x):
        sketches.append(sketch(network.encode(x, levels[order].expand(len(x)), condition)))

    def noise(i, shape):
        drawn = torch.randn(shape, generator=generator).to(lr_image.device)
        if i == 0:
            look(0, levels[0] * resize(lr_image, size) + (1 - levels[0] ** 2).sqrt() * drawn)
        return drawn

    def after_step(order, timestep, x, x0):
        if order + 1 < plan.steps:
            look(order + 1, x)

    sample(
        network, lr_image, size, plan, solver, noise=noise, callback=after_step, start=float(schedule.noise_levels[-1]),
        scale=scale, consistency=consistency,
    )  # fmt: skip
    distances = [relative_distance(torch.stack(tensor, dim=1)) for tensor in zip(*sketches, strict=True)]
    return EncoderChange(plan.timesteps, torch.stack(distances).mean(dim=0).float())


def relative_distance(x: Tensor) -> Tensor:
    """One tensor of the states at T steps, (B, T, n) -> float64 (T, T) on the CPU: the mean over the images of
    |x_i - x_j|² / mean_k |x_k|². A tensor that is 0 throughout does not change."""
    x = x.cpu().double()
    energy = x.square().sum(dim=2).mean(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    return (distance / energy[:, None, None]).mean(dim=0)


class Sketch:
    """EncoderState -> for each of its tensors (B, C, H, W) few numbers (B, K), float32, with almost its distances.

    Each element is added, under a random sign that is always the same, to one of K sums, the next element to the next
    (count sketch, Charikar et al. 2002). The squared distance of two sketches is that of the tensors but for a random
    error, of sqrt(2/K) where the difference is spread evenly over the sums; there is none where a tensor has no more
    than K elements. In full, the states of a chain would take gigabytes.
    """

    def __init__(self, buckets: int, seed: int = 0):
        self.buckets = buckets
        self.generator = torch.Generator().manual_seed(seed)
        self.signs = []  # of each tensor, int8

    def __call__(self, state: EncoderState) -> list[Tensor]:
        tensors = [tensor.flatten(1) for tensor in (*state.skips, state.bottleneck)]
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
