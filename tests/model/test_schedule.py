"""Noise schedules against the recorded buffers of the published code, diffusers' definitions and hand-made tables."""

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from model.errors import ModelError
from model.schedule import SCHEDULES, NoiseSchedule


def make(schedule, n_timestep, start=1e-4, end=2e-2):
    return NoiseSchedule(
        {"schedule": schedule, "n_timestep": n_timestep, "linear_start": start, "linear_end": end},
    )


def table(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_linear_equals_the_recorded_buffers(golden):
    recorded = load_file(golden / "network_tiny.safetensors")
    schedule = make("linear", 40, 1e-4, 0.15)
    torch.testing.assert_close(schedule.betas.float(), recorded["schedule.betas"])
    torch.testing.assert_close(schedule.alphas_cumprod.float(), recorded["schedule.alphas_cumprod"])
    torch.testing.assert_close(schedule.noise_levels.float(), recorded["schedule.sqrt_alphas_cumprod"])


@pytest.mark.parametrize(
    ("ours", "theirs"), [("linear", "linear"), ("quad", "scaled_linear"), ("cosine", "squaredcos_cap_v2")]
)
def test_equals_diffusers(ours, theirs):
    reference = DDIMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=2e-2, beta_schedule=theirs)
    schedule = make(ours, 1000)
    torch.testing.assert_close(schedule.betas.float(), reference.betas, rtol=2e-4, atol=1e-9)
    torch.testing.assert_close(schedule.alphas_cumprod.float(), reference.alphas_cumprod, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "n_timestep", "betas"),
    [
        ("const", 3, table(0.3, 0.3, 0.3)),
        ("warmup10", 20, table(0.1, *[0.3] * 19)),
        ("warmup50", 6, table(0.1, 0.2, 0.3, 0.3, 0.3, 0.3)),
        ("jsd", 4, table(1 / 4, 1 / 3, 1 / 2, 0.999)),
    ],
)
def test_equals_a_table_made_by_hand(name, n_timestep, betas):
    torch.testing.assert_close(make(name, n_timestep, 0.1, 0.3).betas, betas)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("n_timestep", [1, 7, 2000])
def test_every_schedule_is_a_diffusion(name, n_timestep):
    """Float64; every step adds noise, and something of the image is left at the last."""
    schedule = make(name, n_timestep)
    levels = schedule.noise_levels
    assert schedule.n_timestep == len(levels) == n_timestep
    assert schedule.betas.dtype == schedule.alphas_cumprod.dtype == levels.dtype == torch.float64
    assert (levels.diff() < 0).all()
    assert 0 < levels[-1] <= levels[0] < 1


def test_noise_level_and_its_timestep():
    schedule = make("linear", 100)
    assert schedule.noise_levels[7] == schedule.alphas_cumprod[7] ** 0.5
    assert [schedule.timestep_of(float(level)) for level in schedule.noise_levels] == list(range(100))
    between = 0.7 * schedule.noise_levels[50] + 0.3 * schedule.noise_levels[51]
    assert schedule.timestep_of(float(between)) == 50
    assert schedule.timestep_of(1.0) == 0
    assert schedule.timestep_of(0.0) == 99


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"schedule": "liner", "n_timestep": 10}, 'did you mean "linear"'),
        ({"n_timestep": 10}, "schedule None"),
        ({"schedule": "linear"}, "n_timestep must be"),
        ({"schedule": "linear", "n_timestep": 0}, "n_timestep must be"),
        ({"schedule": "linear", "n_timestep": 2.5}, "n_timestep must be"),
        ({"schedule": "linear", "n_timestep": 10, "linear_start": 0.0}, "linear_start"),
        ({"schedule": "quad", "n_timestep": 10, "linear_end": 1.0}, "linear_end"),
        ({"schedule": "quad", "n_timestep": 10, "linear_end": "1e-2"}, "linear_end"),
    ],
)
def test_refuses(spec, message):
    with pytest.raises(ModelError, match=message) as error:
        NoiseSchedule(spec)
    assert "\n" not in str(error.value)
