"""The noise schedule: how much of the image is left at each timestep of the diffusion."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from model.errors import ModelError, did_you_mean

SCHEDULES = ("linear", "quad", "warmup10", "warmup50", "const", "jsd", "cosine")
MAX_BETA = 0.999  # at β = 1 nothing of the image is left, and ŷ_0 could not be computed from the noise


class NoiseSchedule:
    """The forward process q(y_t | y_0) = N(sqrt(ᾱ_t)·y_0, (1 - ᾱ_t)·I), t = 0 .. n_timestep-1 (Ho et al. 2020, eq. 4).

    `spec` is a `beta_schedule` section of the config: `schedule` (one of SCHEDULES), `n_timestep`, and, for those
    schedules that use them, `linear_start` and `linear_end`, the first and last β.

    `betas`, `alphas_cumprod` (ᾱ) and `noise_levels` (γ = sqrt(ᾱ)) are float64 tables (n_timestep,) on the CPU.
    Raises ModelError where the spec does not make a schedule.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        given = {"schedule": None, "n_timestep": None, "linear_start": 1e-6, "linear_end": 1e-2, **spec}
        self.betas = make_betas(given["schedule"], given["n_timestep"], given["linear_start"], given["linear_end"])
        self.alphas_cumprod = torch.cumprod(1 - self.betas, dim=0)
        self.noise_levels = self.alphas_cumprod.sqrt()

    @property
    def n_timestep(self) -> int:
        return len(self.betas)

    def timestep_of(self, noise_level: float) -> int:
        """The timestep whose noise level is nearest to the given one."""
        return int((self.noise_levels - noise_level).abs().argmin())


def make_betas(schedule: str, n_timestep: int, start: float, end: float) -> torch.Tensor:
    """The table of β_t, float64 (n_timestep,), in the definitions of Ho et al. 2020 and Nichol & Dhariwal 2021."""
    check_spec(schedule, n_timestep, start, end)
    if schedule == "linear":
        return linspace(start, end, n_timestep)
    if schedule == "quad":
        return linspace(start**0.5, end**0.5, n_timestep) ** 2
    if schedule == "const":
        return linspace(end, end, n_timestep)
    if schedule.startswith("warmup"):
        warmup = n_timestep * int(schedule.removeprefix("warmup")) // 100
        return torch.cat([linspace(start, end, warmup), linspace(end, end, n_timestep - warmup)])
    if schedule == "jsd":
        return (1 / linspace(n_timestep, 1, n_timestep)).clamp(max=MAX_BETA)
    progress = linspace(0, 1, n_timestep + 1)
    remaining = torch.cos((progress + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - remaining[1:] / remaining[:-1]).clamp(max=MAX_BETA)


def linspace(start: float, end: float, steps: int) -> torch.Tensor:
    return torch.linspace(start, end, steps, dtype=torch.float64)


def check_spec(schedule: str, n_timestep: int, start: float, end: float) -> None:
    if schedule not in SCHEDULES:
        hint = did_you_mean(str(schedule), SCHEDULES)
        raise ModelError(f"schedule {schedule!r} is not known{hint} (known: {', '.join(SCHEDULES)})")
    if not isinstance(n_timestep, int) or isinstance(n_timestep, bool) or n_timestep < 1:
        raise ModelError(f"n_timestep must be a whole number of at least 1, not {n_timestep!r}")
    if schedule not in ("jsd", "cosine"):
        for key, beta in (("linear_start", start), ("linear_end", end)):
            if not isinstance(beta, int | float) or not 0 < beta < 1:
                raise ModelError(f"{key} is a β and must lie between 0 and 1, not {beta!r}")
