"""Layers of equal size worked on together, as the rows of one tensor: a few operations for all of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

STACKED = 2**22  # elements of a stack at most, so that its copies need little memory; what is larger stays alone


def by_rows(function: Callable[..., Tensor], *arguments: Sequence[Tensor]) -> list[Tensor]:
    """Apply `function` to every layer, to those of equal shape at once.

    arguments: for each argument of `function` one tensor a layer; the first of them has the shape that must be equal.
    function: changes no argument; takes tensors (R, …), R layers stacked, and returns one of R rows.
    Returns what it gives for each layer, in the order of the layers.
    """
    results = list(arguments[0])
    for layers in _of_equal_shape(arguments[0]):
        rows = function(*(_stack([tensors[layer] for layer in layers]) for tensors in arguments))
        for layer, row in zip(layers, rows.unbind(), strict=True):
            results[layer] = row
    return results


def _of_equal_shape(tensors: Sequence[Tensor]) -> list[list[int]]:
    """The indices of the tensors, those of equal shape together as far as they make no more than one stack."""
    groups: list[list[int]] = []
    open_group: dict[torch.Size, list[int]] = {}
    for index, tensor in enumerate(tensors):
        group = open_group.get(tensor.shape)
        if group is None or (len(group) + 1) * tensor.numel() > STACKED:
            group = open_group[tensor.shape] = []
            groups.append(group)
        group.append(index)
    return groups


def _stack(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0][None]
