"""Solvers against diffusers' schedulers, formulas written out in float64, and data whose denoiser is known."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from safetensors.torch import load_file
from torch import nn

from model.errors import ModelError
from model.sampler import sample
from model.sampling.plan import SamplingPlan
from model.sampling.solvers import ddim, ddpm, solver_steps
from model.schedule import NoiseSchedule

T = 1000
SHAPE = (2, 3, 8, 8)


class Oracle(nn.Module):
    """A network that predicts what makes ŷ_0 = clean(x, γ), whatever the LR image."""

    def __init__(self, clean, prediction="epsilon", n_timestep=T):
        super().__init__()
        self.clean, self.prediction = clean, prediction
        self.schedule = NoiseSchedule(
            {
                "schedule": "linear",
                "n_timestep": n_timestep,
                "linear_start": 0.1 / n_timestep,
                "linear_end": 20 / n_timestep,
            }
        )

    def condition(self, lr_image, size, scale):
        return None

    def encode(self, x, noise_level, condition):
        return x

    def decode(self, x, noise_level, condition):
        gamma = noise_level[..., None, None, None]
        sigma = (1 - gamma**2).sqrt()
        clean = self.clean(x, gamma)
        epsilon = (x - gamma * clean) / sigma
        return epsilon if self.prediction == "epsilon" else gamma * epsilon - sigma * clean

    def predict(self, x, t):
        return self.decode(x, self.schedule.noise_levels[t].float().expand(len(x)), None)


def smooth(amplitude):
    """A denoiser that is not linear, and reaches ±amplitude."""
    return lambda x, gamma: amplitude * torch.tanh(1.5 * x + 0.3 * gamma)


def draw_noise(steps, shape=SHAPE, dtype=torch.float32):
    return torch.randn(steps + 1, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def run(network, plan, solver, draws, **options):
    """The states after each step, (S, *SHAPE)."""
    states = []
    lr_image = torch.zeros(len(draws[0]), 3, 4, 4)
    sample(
        network, lr_image, tuple(draws.shape[-2:]), plan, solver, noise=lambda i, shape: draws[i],
        callback=lambda order, timestep, x, x0: states.append(x), **options,
    )  # fmt: skip
    return torch.stack(states)


def run_diffusers(scheduler, network, plan, draws, **options):
    scheduler.alphas_cumprod = network.schedule.alphas_cumprod  # float64, so that the comparison is a close one
    scheduler.set_timesteps(plan.steps)
    assert scheduler.timesteps.tolist() == list(plan.timesteps)
    x, states = draws[0], []
    for order, t in enumerate(scheduler.timesteps):
        noise = {"variance_noise": draws[order + 1]} if options else {}
        x = scheduler.step(network.predict(x, int(t)), t, x, **options, **noise).prev_sample
        states.append(x)
    return torch.stack(states)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_ddim_equals_diffusers(prediction, eta, steps):
    """With a denoiser that leaves [-1, 1], so that ε must be derived from the clamped ŷ_0."""
    network, plan, draws = Oracle(smooth(1.4), prediction), SamplingPlan.parse("none", steps, T), draw_noise(steps)
    scheduler = DDIMScheduler(
        num_train_timesteps=T, prediction_type={"epsilon": "epsilon", "v": "v_prediction"}[prediction],
        timestep_spacing="trailing", clip_sample=True, set_alpha_to_one=True,
    )  # fmt: skip
    expected = run_diffusers(scheduler, network, plan, draws, eta=eta, use_clipped_model_output=True)
    torch.testing.assert_close(run(network, plan, "ddim", draws, eta=eta), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # within diffusers
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("steps", [1, 2, 3, 13, 50])
def test_dpm_plus_plus_equals_diffusers(prediction, steps):
    network, plan, draws = Oracle(smooth(0.95), prediction), SamplingPlan.parse("none", steps, T), draw_noise(steps)
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=T, prediction_type={"epsilon": "epsilon", "v": "v_prediction"}[prediction],
        timestep_spacing="trailing", algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint",
        final_sigmas_type="zero",
    )  # fmt: skip
    expected = run_diffusers(scheduler, network, plan, draws)
    torch.testing.assert_close(run(network, plan, "dpm++", draws), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("steps", [1, 2, 13, 100])
def test_ddpm_equals_the_product_of_gaussians(prediction, steps):
    """q(x'|x, ŷ_0) from its factors, q(x'|ŷ_0) and q(x|x'), by adding precisions, over a subset of the timesteps."""
    network, plan, draws = Oracle(smooth(1.4), prediction), SamplingPlan.parse("none", steps, T), draw_noise(steps)
    alphas_cumprod = [*network.schedule.alphas_cumprod[list(plan.timesteps)].tolist(), 1.0]
    x, expected = draws[0].double(), []
    for order in range(steps):
        now, after = alphas_cumprod[order], alphas_cumprod[order + 1]
        x0 = smooth(1.4)(x, math.sqrt(now)).clamp(-1, 1)
        if after == 1:
            x = x0
        else:
            precision = 1 / (1 - after) + (now / after) / (1 - now / after)
            mean = math.sqrt(after) * x0 / (1 - after) + math.sqrt(now / after) * x / (1 - now / after)
            x = mean / precision + draws[order + 1] / math.sqrt(precision)
        expected.append(x)
    torch.testing.assert_close(run(network, plan, "ddpm", draws), torch.stack(expected).float(), rtol=1e-4, atol=1e-4)


def test_ddpm_table_equals_the_recorded_buffers(golden):
    recorded = load_file(golden / "network_tiny.safetensors")
    schedule = NoiseSchedule({"schedule": "linear", "n_timestep": 40, "linear_start": 1e-4, "linear_end": 0.15})
    update = ddpm(torch.cat([schedule.alphas_cumprod.flip(0), torch.ones(1)]))
    torch.testing.assert_close(update.clean.flip(0).float(), recorded["schedule.posterior_mean_coef1"])
    torch.testing.assert_close(update.state.flip(0).float(), recorded["schedule.posterior_mean_coef2"])
    log_variance = 2 * update.noise[:-1].log().flip(0)
    torch.testing.assert_close(log_variance.float(), recorded["schedule.posterior_log_variance_clipped"][1:])


def test_ddim_with_eta_1_has_the_coefficients_of_ddpm():
    alphas_cumprod = torch.tensor([0.05, 0.3, 0.8, 0.99, 1.0], dtype=torch.float64)
    for theirs, ours in zip(ddpm(alphas_cumprod), ddim(alphas_cumprod, eta=1.0), strict=True):
        torch.testing.assert_close(ours, theirs)


MEAN, DEVIATION = 0.2, 0.15


def gaussian(x, gamma):
    """The exact denoiser of data y_0 ~ N(m, s²): E[y_0|x] = m + γs²/(γ²s² + 1 - γ²)·(x - γm)."""
    return MEAN + gamma * DEVIATION**2 / (gamma**2 * DEVIATION**2 + 1 - gamma**2) * (x - gamma * MEAN)


def sample_gaussian(solver, steps, **options):
    plan, lr_image = SamplingPlan.parse("none", steps, T), torch.zeros(2, 3, 4, 4)
    return sample(Oracle(gaussian), lr_image, (64, 64), plan, solver, **options)


@pytest.mark.parametrize(("solver", "eta"), [("ddpm", 0), ("ddim", 0), ("ddim", 0.5), ("dpm++", 0)])
def test_gaussian_data_come_out_with_their_mean_and_deviation(solver, eta):
    """Up to what any chain of that many steps falls short of the process in continuous time."""
    fine, coarse = (sample_gaussian(solver, steps, eta=eta) for steps in (T, 20))
    assert fine.mean().item() == pytest.approx(MEAN, abs=0.005)
    assert fine.std().item() == pytest.approx(DEVIATION, rel=0.04)
    assert abs(coarse.std() - DEVIATION) > 2 * abs(fine.std() - DEVIATION)


@pytest.mark.parametrize("steps", [13, 100, T])
def test_ddpm_moments_of_gaussian_data(steps):
    """Mean and deviation of the whole chain, propagated step by step in closed form from N(0, 1)."""
    levels = Oracle(gaussian).schedule.alphas_cumprod[list(SamplingPlan(steps, T, ()).timesteps)].tolist()
    mean, variance = 0.0, 1.0
    for now, after in zip(levels, [*levels[1:], 1.0], strict=True):
        beta = 1 - now / after
        slope = math.sqrt(now) * DEVIATION**2 / (now * DEVIATION**2 + 1 - now)  # of E[y_0|x] in x
        of_x0, of_x = math.sqrt(after) * beta / (1 - now), math.sqrt(now / after) * (1 - after) / (1 - now)
        mean = of_x0 * (MEAN + slope * (mean - math.sqrt(now) * MEAN)) + of_x * mean
        variance = (of_x0 * slope + of_x) ** 2 * variance + beta * (1 - after) / (1 - now)
    image = sample_gaussian("ddpm", steps)
    assert image.mean().item() == pytest.approx(mean, abs=0.005)
    assert image.std().item() == pytest.approx(math.sqrt(variance), rel=0.015)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm++"])
@pytest.mark.parametrize("schedule", ["jsd", "cosine"])
def test_schedules_that_end_in_noise_alone_stay_finite(solver, schedule):
    network = Oracle(smooth(0.9))
    network.schedule = NoiseSchedule({"schedule": schedule, "n_timestep": T})
    for steps in (1, 20):
        states = run(network, SamplingPlan.parse("none", steps, T), solver, draw_noise(steps))
        assert states.isfinite().all()
        assert states[-1].abs().max() <= 1


def test_unknown_names_are_refused():
    alphas_cumprod = torch.tensor([0.5], dtype=torch.float64)
    with pytest.raises(ModelError, match=r'solver \'ddmp\' is not known; did you mean "dd.m"\? \(known: ddpm, ddim'):
        solver_steps("ddmp", "epsilon", alphas_cumprod, 0.0, "cpu")
    with pytest.raises(ModelError, match="prediction must be"):
        solver_steps("ddpm", "x0", alphas_cumprod, 0.0, "cpu")
