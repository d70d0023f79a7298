"""How much a layer matters: the share of the regrowth that each layer gets.

REDISTRIBUTION_RULES maps a name to a function of one Layer, its tensors (…, N), that returns its importance, a float64
tensor (…) on the layer's device.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparse.layer import Layer, over_layers, reads
from sparse.selection import count_per_row


@reads("momentum")
def momentum(layer: Layer) -> Tensor:
    """Mean |m| over the active weights (Dettmers & Zettlemoyer 2019, arXiv 1907.04840, section 3)."""
    return _mean_over_active(layer.momentum.abs(), layer.mask)


@reads("weight")
def magnitude(layer: Layer) -> Tensor:
    """Mean |w| over the active weights."""
    return _mean_over_active(layer.weight.abs(), layer.mask)


@reads("weight")
def nonzero(layer: Layer) -> Tensor:
    """The number of weights that are not 0: the layer keeps its share."""
    return layer.weight.count_nonzero(-1).double()


@reads("second_moment")
def variance(layer: Layer) -> Tensor:
    """Mean root of Adam's second moment over the active weights."""
    return _mean_over_active(layer.second_moment.sqrt(), layer.mask)


def size(layer: Layer) -> Tensor:
    """The number of weights, active or not."""
    return torch.full(layer.mask.shape[:-1], layer.mask.shape[-1], dtype=torch.float64, device=layer.mask.device)


REDISTRIBUTION_RULES = {
    "momentum": momentum,
    "magnitude": magnitude,
    "nonzero": nonzero,
    "variance": variance,
    "none": size,
}


def layer_importance(rule: Callable[[Layer], Tensor], layers: Sequence[Layer]) -> list[float]:
    """The importance of each layer, normalised to sum 1, in one transfer to the host.

    A value that is not finite counts as 0; where all are 0, as before any momentum, layers matter by their size.
    """
    raw = torch.stack(over_layers(rule, layers)).tolist()
    raw = [value if math.isfinite(value) else 0.0 for value in raw]
    if sum(raw) == 0:
        raw = [len(layer.mask) for layer in layers]
    return [value / sum(raw) for value in raw]


def _mean_over_active(values: Tensor, mask: Tensor) -> Tensor:
    # float64, so that the order of summation, which differs between devices, cannot move a weight between layers.
    return (values * mask).sum(-1, dtype=torch.float64) / count_per_row(mask).clamp(min=1)
