"""Training: what is drawn for a batch, and the loss.

The network is told the noise level as a continuous number, as in WaveGrad (Chen et al. 2021) and SR3 (Saharia et al.
2021).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network import Network
from model.schedule import NoiseSchedule

LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss}


def draw_noise_levels(schedule: NoiseSchedule, batch: int, generator: torch.Generator | None) -> Tensor:
    """γ (B,) on the CPU: t ~ U{1..T}, then γ ~ U(γ_t, γ_{t-1}), with γ_t = sqrt(ᾱ_t) and γ_0 = 1."""
    levels = torch.cat([torch.ones(1, dtype=torch.float64), schedule.alphas_cumprod.sqrt()])
    t = torch.randint(1, schedule.n_timestep + 1, (batch,), generator=generator)
    position = torch.rand(batch, generator=generator, dtype=torch.float64)
    return (levels[t] + position * (levels[t - 1] - levels[t])).float()


def draw_side(lr_side: int, hr_side: int, step: int, generator: torch.Generator) -> tuple[float, int]:
    """Continuous scale: p ~ U(0, 1) -> side l + (h - l)·p, one for the whole batch, rounded up to a multiple of `step`.

    Returns (p of the rounded side, side). A step of 1 gives every size, as published; a larger one bounds how many
    sizes there are, and so how many programs a GPU has to prepare.
    """
    p = torch.rand((), generator=generator).item()
    side = lr_side + (hr_side - lr_side) * p
    side = min(max(math.ceil(side / step) * step, lr_side + 1), hr_side)
    return (side - lr_side) / (hr_side - lr_side), side


def draw_sizes(sizes: Sequence[Sequence[float]], generator: torch.Generator) -> tuple[int, int]:
    """(LR side, HR side) of one of the [LR side, HR side, weight], drawn in proportion to its weight."""
    weights = torch.tensor([weight for *_, weight in sizes], dtype=torch.float64)
    lr_side, hr_side, _ = sizes[int(torch.multinomial(weights, 1, generator=generator))]
    return int(lr_side), int(hr_side)


def target(prediction: str, hr: Tensor, noise: Tensor, noise_level: Tensor) -> Tensor:
    """What the network is to predict: ε, or v = γ·ε - sqrt(1-γ²)·y_0 (Salimans & Ho 2022)."""
    return noise if prediction == "epsilon" else noise_level * noise - (1 - noise_level.square()).sqrt() * hr


def noisy_at(noise_level: Tensor, image: Tensor, noise: Tensor) -> Tensor:
    """γ·image + sqrt(1-γ²)·noise, image and noise (B, 3, H, W), noise_level γ (B, 1, 1, 1)."""
    return noise_level * image + (1 - noise_level.square()).sqrt() * noise


class DiffusionLoss(nn.Module):
    """The training objective as a module, so that one wrapper (DDP, compile) sees the whole forward pass."""

    def __init__(self, network: Network, loss: str = "l1") -> None:
        super().__init__()
        self.network = network
        self.loss = LOSSES[loss]

    def forward(self, lr: Tensor, hr: Tensor, noise: Tensor, noise_level: Tensor, scale: float) -> Tensor:
        """lr (B, 3, h, w), hr and noise (B, 3, H, W), noise_level (B,), scale p a float -> scalar loss.

        y = γ·y_0 + sqrt(1-γ²)·ε; the loss is the mean of |ε - ε̂| (l1) or its square (l2).
        """
        gamma = noise_level[:, None, None, None]
        x_t = noisy_at(gamma, hr, noise)
        condition = self.network.condition(lr, hr.shape[2:], scale)
        prediction = self.network(x_t, noise_level, condition)
        return self.loss(prediction.float(), target(self.network.prediction, hr, noise, gamma))
