"""What a chain follows is tabulated once, and right for whoever asks next."""

import pytest
import torch

from model.errors import ModelError
from model.sampling.plan import SamplingPlan
from model.sampling.solvers import solver_steps
from model.sampling.trajectory import trajectory_of
from model.schedule import NoiseSchedule

SPEC = {"schedule": "linear", "n_timestep": 100, "linear_start": 1e-4, "linear_end": 0.1}
PLAN = SamplingPlan.parse("uniform:2", 10, 100)
CPU = torch.device("cpu")


def test_begins_at_the_noise_level_nearest_to_the_start():
    schedule = NoiseSchedule(SPEC)
    trajectory = trajectory_of(schedule, PLAN, "dpm++", "v", 0.0, 0.35, CPU)
    nearest = int((schedule.noise_levels - 0.35).abs().argmin())
    assert trajectory.plan == PLAN.within(nearest + 1) and trajectory.plan.timesteps[0] == nearest
    alphas_cumprod = schedule.alphas_cumprod[list(trajectory.plan.timesteps)]
    assert trajectory.alpha_bar == alphas_cumprod[0]
    torch.testing.assert_close(trajectory.levels.double() ** 2, alphas_cumprod)
    expected = solver_steps("dpm++", "v", alphas_cumprod, 0.0, CPU)
    assert torch.equal(trajectory.steps.table, expected.table) and trajectory.steps.used == expected.used


def test_is_kept_for_the_same_chain_alone():
    asked = NoiseSchedule(SPEC), PLAN, "ddim", "epsilon", 0.0, 0.35, CPU
    first = trajectory_of(*asked)
    assert trajectory_of(*asked) is first
    others = NoiseSchedule(SPEC | {"linear_end": 0.2}), SamplingPlan.parse("none", 10, 100), "ddpm", "v", 0.5, None
    for n, other in enumerate(others):
        changed = (*asked[:n], other, *asked[n + 1 :])
        found = trajectory_of(*changed)
        torch.testing.assert_close(found.steps.table, trajectory_of.__wrapped__(*changed).steps.table)
        assert not (found.plan == first.plan and torch.equal(found.steps.table, first.steps.table)), other


def test_what_an_inference_mode_kept_can_be_trained_with():
    with torch.inference_mode():
        trajectory = trajectory_of(NoiseSchedule(SPEC), PLAN, "ddim", "epsilon", 0.0, 0.35, CPU)
    x = torch.ones(3, requires_grad=True)
    (x * trajectory.levels[0] * trajectory.steps[0].from_state).sum().backward()
    assert x.grad is not None


def test_an_unknown_solver_is_refused_each_time():
    for _ in range(2):
        with pytest.raises(ModelError, match="solver 'ddmi' is not known"):
            trajectory_of(NoiseSchedule(SPEC), PLAN, "ddmi", "epsilon", 0.0, None, CPU)
