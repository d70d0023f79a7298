"""The student: the chain by which it samples, with its gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.network import Network
from model.sampler import SamplingPlan, noisy
from model.sampling.steps import clean_estimate, next_state
from model.sampling.trajectory import trajectory_of


class StudentChain(nn.Module):
    """The chain by which the student samples, with its gradient: steps of DDIM from the noise level `start`.

    It computes what `sample(..., "ddim", start=start, consistency=consistency)` does, but for the last clamp, beyond
    which the loss would not reach.
    """

    levels: Tensor  # (S,) γ of each step

    def __init__(
        self,
        network: Network,  # with its noise schedule
        plan: SamplingPlan,
        start: float,  # γ, in (0, 1)
        consistency: int = 0,  # rounds of back-projection
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        assert network.schedule is not None
        self.network, self.consistency = network, consistency
        device = torch.device(device)
        trajectory = trajectory_of(network.schedule, plan, "ddim", network.prediction, 0.0, start, device)
        self.plan, self.steps, self.start = trajectory.plan, trajectory.steps, trajectory.alpha_bar
        self.register_buffer("levels", trajectory.levels, persistent=False)

    def forward(self, lr: Tensor, lr_up: Tensor, noise: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        """lr (B, 3, h, w), its up-sampled image and noise (B, 3, H, W), the network's scale p -> ŷ_0 (B, 3, H, W)."""
        condition = self.network.condition(lr, lr_up.shape[2:], scale)
        x, x0 = noisy(lr_up, noise, self.start), None
        for group in self.plan.groups:
            levels = self.levels[group.start : group.stop, None].expand(-1, len(lr))  # (K, B)
            state = self.network.encode(x, levels[0], condition)
            predictions = self.network.decode(state, levels, condition).float()  # (K, B, 3, H, W)
            for order, prediction in zip(group, predictions, strict=True):
                estimate = clean_estimate(self.steps[order], x, prediction, lr, self.consistency)
                before, x0 = x0, estimate.clamp(-1, 1)
                x = next_state(self.steps[order], x, x0, before)
        return estimate
