"""Which active weights go: every rule is a pure function of what a Layer holds.

PRUNE_RULES maps a name to a function (layers, counts) -> masks of the pruned weights, one (N,) bool tensor a layer.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from sparse.allocation import share
from sparse.layer import Layer, reads
from sparse.rows import by_rows
from sparse.selection import count_true, on_device, per_layer, select_largest, select_largest_overall

SATURATED = 0.2  # a layer with a smaller share of inactive weights has little room to grow into


def layer_prune_rates(
    rate: float, importance: Sequence[float], active: Sequence[int], sizes: Sequence[int]
) -> list[float]:
    """The prune rate of each layer: `rate`, but no more than its inactive share for a layer that is nearly full
    and more important than the average, since it would only ask for the same weights back.
    """
    rates = []
    for layer_importance, n_active, size in zip(importance, active, sizes, strict=True):
        inactive_share = (size - n_active) / size
        spared = inactive_share < SATURATED and layer_importance > 1 / len(sizes)
        rates.append(min(rate, inactive_share) if spared else rate)
    return rates


def prune_counts(rates: Sequence[float], active: Sequence[int]) -> list[int]:
    """How many of each layer's active weights to prune: ceil(rate · active)."""
    return [min(n_active, math.ceil(rate * n_active)) for rate, n_active in zip(rates, active, strict=True)]


@reads("weight")
def magnitude(layer: Layer, counts: Tensor) -> Tensor:
    """Prune the smallest |w| (Dettmers & Zettlemoyer 2019, arXiv 1907.04840, section 3)."""
    return _select_smallest(layer.weight, layer.mask, counts)


@reads("weight", "second_moment")
def magnitude_variance(layer: Layer, counts: Tensor) -> Tensor:
    """Prune the smallest |w| / sqrt(v), v the running mean of the squared gradient: small weights of uncertain sign.

    A weight of exactly 0 comes first, whatever its v.
    """
    return select_largest(-layer.weight.abs() / layer.second_moment.sqrt(), layer.mask, counts)


@reads("weight")
def sparse_evolutionary_training(layers: Sequence[Layer], counts: Sequence[int]) -> list[Tensor]:
    """Prune the smallest positive and the largest negative weights, the same fraction of each sign
    (SET, Mocanu et al. 2018, arXiv 1707.04780, algorithm 2). A weight of exactly 0 counts as positive.
    """
    negative = [layer.mask & (layer.weight < 0) for layer in layers]
    positive = [layer.mask & ~below for layer, below in zip(layers, negative, strict=True)]
    sizes = zip(count_true(positive), count_true(negative), strict=True)
    shares = [share(count, size, size).tolist() for count, size in zip(counts, sizes, strict=True)]
    n_above, n_below = zip(*shares, strict=True)
    weights = [layer.weight for layer in layers]
    pruned_above = by_rows(_select_smallest, weights, positive, on_device(n_above, layers))
    pruned_below = by_rows(_select_smallest, weights, negative, on_device(n_below, layers))
    return [above | below for above, below in zip(pruned_above, pruned_below, strict=True)]


@reads("weight")
def global_magnitude(layers: Sequence[Layer], counts: Sequence[int]) -> list[Tensor]:
    """Prune the smallest |w| of all layers by one threshold, as many as the layers' counts add up to."""
    return select_largest_overall(
        [-layer.weight.abs() for layer in layers], [layer.mask for layer in layers], sum(counts)
    )


def _select_smallest(weight: Tensor, candidates: Tensor, counts: Tensor) -> Tensor:
    return select_largest(-weight.abs(), candidates, counts)


PRUNE_RULES = {
    "magnitude": per_layer(magnitude),
    "magnitude_variance": per_layer(magnitude_variance),
    "SET": sparse_evolutionary_training,
    "global_magnitude": global_magnitude,
}
