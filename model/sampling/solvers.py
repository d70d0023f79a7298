"""The solvers of the reverse process, each as a table of coefficients.

A chain of S steps visits the noise levels γ_0 < γ_1 < ... < γ_{S-1} and ends at γ_S = 1, the image; σ = sqrt(1 - γ²).
Given the network's prediction at a step, that step is linear in what is known, whatever the solver:

    ŷ_0 = from_state · x + from_prediction · prediction                        then corrected and clamped
    x'  = state · x + clean · ŷ_0 + previous · (ŷ_0 of the step before) + noise · z,     z ~ N(0, I)

So a solver is a function from the ᾱ = γ² of the chain to the last four columns. Tables are computed in float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.errors import ModelError, did_you_mean

MIN_VARIANCE = 1e-20


class Update(NamedTuple):
    """The coefficients of x' at every step, each a float64 table (S,)."""

    state: Tensor
    clean: Tensor
    previous: Tensor
    noise: Tensor


class Step(NamedTuple):
    """All coefficients of one step: float32 scalars on the device, or None where the term is zero."""

    from_state: Tensor
    from_prediction: Tensor
    state: Tensor | None
    clean: Tensor
    previous: Tensor | None
    noise: Tensor | None


def ddpm(alphas_cumprod: Tensor) -> Update:
    """Ancestral sampling: the posterior q(x' | x, ŷ_0) (Ho et al. 2020, eq. 7), for any subset of timesteps."""
    alpha_bar, alpha_bar_next = alphas_cumprod[:-1], alphas_cumprod[1:]
    alpha = alpha_bar / alpha_bar_next
    beta = 1 - alpha
    variance = beta * (1 - alpha_bar_next) / (1 - alpha_bar)
    deviation = variance.clamp(min=MIN_VARIANCE).sqrt()
    deviation[-1] = 0  # the last step is the mean
    return Update(
        state=alpha.sqrt() * (1 - alpha_bar_next) / (1 - alpha_bar),
        clean=alpha_bar_next.sqrt() * beta / (1 - alpha_bar),
        previous=torch.zeros_like(alpha),
        noise=deviation,
    )


def ddim(alphas_cumprod: Tensor, eta: float = 0.0) -> Update:
    """DDIM (Song et al. 2021, eq. 12 and 16): x' = γ'·ŷ_0 + sqrt(σ'² - s²)·ε + s·z, where ε = (x - γ·ŷ_0) / σ is that
    of the corrected ŷ_0. η = 0 is deterministic, η = 1 has the variance of `ddpm`."""
    alpha_bar, alpha_bar_next = alphas_cumprod[:-1], alphas_cumprod[1:]
    s = eta * ((1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)).sqrt()
    state = ((1 - alpha_bar_next - s**2) / (1 - alpha_bar)).clamp(min=0).sqrt()
    return Update(
        state=state,
        clean=alpha_bar_next.sqrt() - state * alpha_bar.sqrt(),
        previous=torch.zeros_like(s),
        noise=s,
    )


def dpm_plus_plus(alphas_cumprod: Tensor) -> Update:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): x' = (σ'/σ)·x - γ'·(exp(-h) - 1)·D with
    D = (1 + 1/(2r))·ŷ_0 - 1/(2r)·ŷ_0(before), h = λ' - λ, r = h(before) / h, λ = ln(γ/σ). The first step, which has no
    step before, and the last, where λ' is infinite, are of first order: D = ŷ_0."""
    gamma, sigma = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    lambda_ = gamma.log() - sigma.log()
    h = lambda_.diff()
    half_inverse_r = torch.zeros_like(h)
    half_inverse_r[1:-1] = h[1:-1] / h[:-2] / 2
    weight = -gamma[1:] * torch.expm1(-h)
    return Update(
        state=sigma[1:] / sigma[:-1],
        clean=weight * (1 + half_inverse_r),
        previous=-weight * half_inverse_r,
        noise=torch.zeros_like(h),
    )


SOLVERS = {"ddpm": ddpm, "ddim": ddim, "dpm++": dpm_plus_plus}


def clean_image(prediction: str, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients of ŷ_0 in x and the prediction: the noise ε, or v = γ·ε - σ·y_0 (Salimans & Ho 2022, app. D)."""
    gamma, sigma = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    if prediction == "epsilon":
        return 1 / gamma, -sigma / gamma
    if prediction == "v":
        return gamma, -sigma
    raise ModelError(f'prediction must be "epsilon" or "v", not {prediction!r}')


class Steps(Sequence[Step]):
    """The steps of a chain, in the order in which they are taken; as one table for whoever takes several at once."""

    def __init__(self, table: Tensor, device: torch.device | str) -> None:  # (S, 6) float64, a row for each step
        self.table = table.float().to(device)
        self.used = (table != 0).tolist()  # decided here, on the host, so that the chain never looks at a value

    def __getitem__(self, order: int) -> Step:  # type: ignore[override]  # no slices
        scalars = self.table[order].unbind()
        terms = (scalar if used else None for scalar, used in zip(scalars, self.used[order], strict=True))
        return Step(*terms)  # type: ignore[arg-type]  # no solver is without the first three and ŷ_0

    def __len__(self) -> int:
        return len(self.table)

    def adds_noise(self, order: int) -> bool:
        return self.used[order][Step._fields.index("noise")]


def solver_steps(solver: str, prediction: str, alphas_cumprod: Tensor, eta: float, device: torch.device | str) -> Steps:
    """The steps of a chain over timesteps of the given ᾱ, float64 (S,), in the order in which they are taken."""
    if solver not in SOLVERS:
        hint = did_you_mean(str(solver), SOLVERS)
        raise ModelError(f"solver {solver!r} is not known{hint} (known: {', '.join(SOLVERS)})")
    chain = torch.cat([alphas_cumprod, alphas_cumprod.new_ones(1)])
    update = ddim(chain, eta) if solver == "ddim" else SOLVERS[solver](chain)
    return Steps(torch.stack([*clean_image(prediction, alphas_cumprod), *update], dim=1), device)
