"""The exponential moving average of the weights: what is validated and shipped."""

import copy

import torch
from torch import Tensor

from model import Network
from sparse import Masker


class EMA:
    """A second network whose weights follow those of the first: e ← d·e + (1-d)·w, every `every` steps from `start`.

    Before `start` it is a plain copy. An average of networks with different masks has more weights that are not 0 than
    each of them. So the new masks are applied to it whenever they change, and it has the density of the network.
    """

    def __init__(self, network: Network, decay: float = 0.9999, start: int = 5000, every: int = 1):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.start, self.every = decay, start, every
        self.averages: list[Tensor] = list(self.network.parameters())

    @torch.no_grad()
    def update(self, network: Network, step: int, skip: Tensor) -> None:
        """After the optimiser step that ends `step` (counted from 1). skip: 1, on the device, where it changed nothing
        and the average is not to change either, else 0."""
        weights = [parameter.detach() for parameter in network.parameters()]
        if step < self.start:
            torch._foreach_copy_(self.averages, weights)
        elif step % self.every:
            return
        elif skip.device.type == "cuda":
            self.update_fused(weights, skip)
        elif not skip:
            torch._foreach_lerp_(self.averages, weights, 1 - self.decay)

    def update_fused(self, weights: list[Tensor], skip: Tensor) -> None:
        """e ← e - (1-d)·(e - w) is a step of SGD with weight decay 1, whose fused kernel reads `skip` on the device."""
        torch._fused_sgd_(
            self.averages,
            weights,
            momentum_buffer_list=[],
            weight_decay=1.0,
            momentum=0.0,
            lr=1 - self.decay,
            dampening=0.0,
            nesterov=False,
            maximize=True,
            is_first_step=False,
            found_inf=skip,
        )

    def mask(self, masker: Masker) -> None:
        """After the masks have changed."""
        masker.apply_to(dict(self.network.named_parameters()))
