"""Which inactive weights come: every rule is a pure function of what a Layer holds (and of a seeded generator).

GROWTH_RULES maps a name to a function (layers, counts, generator) -> masks of the regrown weights, one (N,) bool tensor
a layer. Every count is at most the number of inactive weights of its layer.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparse.allocation import share
from sparse.layer import Layer, reads
from sparse.rows import by_rows
from sparse.selection import count_per_row, on_device, per_layer, select_largest, select_largest_overall


@reads("momentum")
def momentum(layer: Layer, counts: Tensor) -> Tensor:
    """Grow where |m| is largest (Dettmers & Zettlemoyer 2019, arXiv 1907.04840, section 3)."""
    return _select_strongest(layer.momentum, layer.mask, counts)


@reads("gradient")
def gradient(layer: Layer, counts: Tensor) -> Tensor:
    """Grow where the gradient of this very step is largest (RigL, Evci et al. 2020, arXiv 1911.11134, section 3)."""
    return _select_strongest(layer.gradient, layer.mask, counts)


def random(layers: Sequence[Layer], counts: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Grow anywhere with equal chance (SET, Mocanu et al. 2018, arXiv 1707.04780)."""
    masks = [layer.mask for layer in layers]
    chances = [torch.rand(len(mask), generator=generator, device=generator.device) for mask in masks]
    return by_rows(_select_strongest, chances, masks, on_device(counts, layers))


@reads("momentum")
def momentum_neuron(
    layers: Sequence[Layer], counts: Sequence[int], generator: torch.Generator | None = None
) -> list[Tensor]:
    """Share a layer's count over its output neurons by their mean |m|, then grow where |m| is largest within each."""
    momenta = [layer.momentum.view(layer.neurons, -1) for layer in layers]
    masks = [layer.mask.view(layer.neurons, -1) for layer in layers]
    mean = torch.cat(by_rows(lambda momentum: momentum.abs().mean(-1, dtype=torch.float64), momenta))
    room = torch.cat(by_rows(lambda mask: count_per_row(~mask), masks))
    both = torch.stack([mean, room.double()]).cpu().numpy()  # the one transfer to the host, for all layers
    neurons = [layer.neurons for layer in layers]
    means, rooms = (np.split(values, np.cumsum(neurons)[:-1]) for values in both)  # of each layer: (neurons,)
    shares = [share(*of_layer) for of_layer in zip(counts, means, rooms, strict=True)]
    wanted = torch.from_numpy(np.concatenate(shares)).int().to(masks[0].device).split(neurons)
    return [mask.flatten() for mask in by_rows(_select_strongest, momenta, masks, wanted)]


@reads("momentum")
def global_momentum(
    layers: Sequence[Layer], counts: Sequence[int], generator: torch.Generator | None = None
) -> list[Tensor]:
    """Grow where |m| is largest in all layers by one threshold, as many as the layers' counts add up to."""
    return select_largest_overall(
        [layer.momentum.abs() for layer in layers], [~layer.mask for layer in layers], sum(counts)
    )


def generator_of_update(seed: int, update: int, device: torch.device) -> torch.Generator:
    """The random generator of one update: the same on every rank, and for a run that was continued."""
    mixed = np.random.SeedSequence([seed, update]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed))


def _select_strongest(values: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
    return select_largest(values.abs(), ~mask, counts)


GROWTH_RULES = {
    "momentum": per_layer(momentum),
    "gradient": per_layer(gradient),
    "random": random,
    "momentum_neuron": momentum_neuron,
    "global_momentum": global_momentum,
}
