"""The exponential moving average of the weights: what is validated and shipped."""

import copy

import torch
from torch import Tensor

from model import Network
from sparse import Masker


class EMA:
    """A second network whose weights follow those of the first: e ← d·e + (1-d)·w, every `every` steps from `start`.

    Before `start` it is a plain copy. An average over steps with changing masks has more non-zeros than the budget, so
    whenever the masks change they multiply it: it has exactly the density of the network.
    """

    def __init__(self, network: Network, decay: float = 0.9999, start: int = 5000, every: int = 1):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.start, self.every = decay, start, every
        self.averages: list[Tensor] = list(self.network.parameters())

    @torch.no_grad()
    def update(self, network: Network, step: int) -> None:
        """After the optimiser step that ends `step` (counted from 1)."""
        weights = [parameter.detach() for parameter in network.parameters()]
        if step < self.start:
            torch._foreach_copy_(self.averages, weights)
        elif step % self.every == 0:
            torch._foreach_lerp_(self.averages, weights, 1 - self.decay)

    def mask(self, masker: Masker) -> None:
        """After the masks have changed."""
        masker.apply_to(dict(self.network.named_parameters()))
