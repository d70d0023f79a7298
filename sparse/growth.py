"""Which inactive weights come: every rule is a pure function of what a Layer holds (and of a seeded generator).

GROWTH_RULES maps a name to a function (layers, counts, generator) -> masks of the regrown weights, one (N,) bool tensor
a layer. Every count is at most the number of inactive weights of its layer.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sparse.allocation import share
from sparse.layer import Layer, reads
from sparse.selection import select_largest, select_largest_overall, select_largest_per_row, select_random


@reads("momentum")
def momentum(layer: Layer, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Grow where |m| is largest (Dettmers & Zettlemoyer 2019, arXiv 1907.04840, section 3)."""
    return select_largest(layer.momentum.abs(), ~layer.mask, count)


@reads("gradient")
def gradient(layer: Layer, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Grow where the gradient of this very step is largest (RigL, Evci et al. 2020, arXiv 1911.11134, section 3)."""
    return select_largest(layer.gradient.abs(), ~layer.mask, count)


def random(layer: Layer, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Grow anywhere with equal chance (SET, Mocanu et al. 2018, arXiv 1707.04780)."""
    return select_random(~layer.mask, count, generator)


@reads("momentum")
def momentum_neuron(
    layers: Sequence[Layer], counts: Sequence[int], generator: torch.Generator | None = None
) -> list[Tensor]:
    """Share a layer's count over its output neurons by their mean |m|, then grow where |m| is largest within each."""
    scores = [layer.momentum.abs().view(layer.neurons, -1) for layer in layers]
    inactive = [~layer.mask.view(layer.neurons, -1) for layer in layers]
    mean = torch.cat([score.mean(1, dtype=torch.float64) for score in scores])
    room = torch.cat([free.sum(1) for free in inactive])
    mean, room = torch.stack([mean, room.double()]).cpu().numpy()  # the one transfer to the host, for all layers
    neurons = [layer.neurons for layer in layers]
    ends = np.cumsum(neurons)[:-1]
    mean, room = np.split(mean, ends), np.split(room, ends)
    wanted = [share(*of_layer) for of_layer in zip(counts, mean, room, strict=True)]  # of each layer: (neurons,)
    on_device = torch.from_numpy(np.concatenate(wanted)).to(scores[0].device).split(neurons)
    return [
        select_largest_per_row(score, free, of_neuron, int(on_host.max())).flatten()
        for score, free, of_neuron, on_host in zip(scores, inactive, on_device, wanted, strict=True)
    ]


@reads("momentum")
def global_momentum(
    layers: Sequence[Layer], counts: Sequence[int], generator: torch.Generator | None = None
) -> list[Tensor]:
    """Grow where |m| is largest in all layers by one threshold, as many as the layers' counts add up to."""
    return select_largest_overall(
        [layer.momentum.abs() for layer in layers], [~layer.mask for layer in layers], sum(counts)
    )


def generator_of_update(seed: int, update: int, device: torch.device) -> torch.Generator:
    """Return the random generator of one update: the same on every rank, and for a run that was continued."""
    mixed = np.random.SeedSequence([seed, update]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed))


def _per_layer(rule: Callable) -> Callable:
    """Lift a rule for one layer to all layers, each with its own count."""

    @reads(*getattr(rule, "reads", ()))
    def over_layers(layers: Sequence[Layer], counts: Sequence[int], generator: torch.Generator) -> list[Tensor]:
        return [rule(layer, count, generator) for layer, count in zip(layers, counts, strict=True)]

    return over_layers


GROWTH_RULES = {
    "momentum": _per_layer(momentum),
    "gradient": _per_layer(gradient),
    "random": _per_layer(random),
    "momentum_neuron": momentum_neuron,
    "global_momentum": global_momentum,
}
