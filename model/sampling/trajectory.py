"""What a chain follows, tabulated once: its timesteps, its noise levels, and the coefficients of its steps."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from model.sampling.plan import SamplingPlan
from model.sampling.solvers import Steps, solver_steps
from model.schedule import NoiseSchedule


class Trajectory(NamedTuple):
    plan: SamplingPlan  # of the steps that are taken
    steps: Steps
    levels: Tensor  # γ of each step, float32 (S,) on the device
    alpha_bar: float  # ᾱ of the first step


@lru_cache(maxsize=16)
def trajectory_of(
    schedule: NoiseSchedule,
    plan: SamplingPlan,
    solver: str,
    prediction: str,
    eta: float,
    start: float | None,  # begin at the timestep nearest to this noise level γ; None: at the first of the plan
    device: torch.device,
) -> Trajectory:
    """The trajectory of a plan, kept for later calls: a chain of one step takes the host longer to tabulate than to
    launch. Raises ModelError for a solver or a prediction that is not known."""
    if start is not None:
        plan = plan.within(schedule.timestep_of(start) + 1)
    with torch.inference_mode(False):  # what is kept may take part in training later
        alphas_cumprod = schedule.alphas_cumprod[list(plan.timesteps)]
        steps = solver_steps(solver, prediction, alphas_cumprod, eta, device)
        levels = alphas_cumprod.sqrt().float().to(device)
    return Trajectory(plan, steps, levels, float(alphas_cumprod[0]))
