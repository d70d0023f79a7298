"""How much a layer matters: the share of the regrowth that each layer gets.

REDISTRIBUTION_RULES maps a name to a function of one Layer that returns its importance, a scalar float64 tensor on the
layer's device.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparse.layer import Layer, reads


@reads("momentum")
def momentum(layer: Layer) -> Tensor:
    """Mean |m| over the active weights (Dettmers & Zettlemoyer 2019, arXiv 1907.04840, section 3)."""
    return _mean_over_active(layer.momentum.abs(), layer.mask)


def magnitude(layer: Layer) -> Tensor:
    """Mean |w| over the active weights."""
    return _mean_over_active(layer.weight.abs(), layer.mask)


def nonzero(layer: Layer) -> Tensor:
    """The number of weights that are not 0: the layer keeps its share."""
    return layer.weight.count_nonzero().double()


@reads("second_moment")
def variance(layer: Layer) -> Tensor:
    """Mean root of Adam's second moment over the active weights."""
    return _mean_over_active(layer.second_moment.sqrt(), layer.mask)


def size(layer: Layer) -> Tensor:
    """The number of weights, active or not."""
    return torch.full((), len(layer.weight), dtype=torch.float64, device=layer.weight.device)


REDISTRIBUTION_RULES = {
    "momentum": momentum,
    "magnitude": magnitude,
    "nonzero": nonzero,
    "variance": variance,
    "none": size,
}


def layer_importance(rule: Callable[[Layer], Tensor], layers: Sequence[Layer]) -> list[float]:
    """Return the importance of each layer, normalised to sum 1, in one transfer to the host.

    A value that is not finite counts as 0; where all are 0, as before any momentum, layers matter by their size.
    """
    raw = torch.stack([rule(layer) for layer in layers]).tolist()
    raw = [value if math.isfinite(value) else 0.0 for value in raw]
    if sum(raw) == 0:
        raw = [len(layer.weight) for layer in layers]
    return [value / sum(raw) for value in raw]


def _mean_over_active(values: Tensor, mask: Tensor) -> Tensor:
    # float64, so that the order of summation, which differs between devices, cannot move a weight between layers.
    return (values * mask).sum(dtype=torch.float64) / mask.sum().clamp(min=1)
