"""A copy of a network for inference alone: its weights never change, so what follows from them is computed once."""

import copy
import functools

import torch
from torch import nn


def freeze(network, dtype=torch.float32):
    """A copy in eval mode whose convolutions are in dtype, so that autocast has nothing to convert, and whose modules
    keep what `kept_when_frozen` methods return."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in network.modules():
        module.kept = {}
        if type(module) is nn.Conv2d:  # not a subclass that makes its weight of the parameter at each call
            module.to(dtype, memory_format=torch.channels_last)
    return network


def kept_when_frozen(method):
    """What the method returns for given arguments is computed once if the module is one of a frozen network, and
    every time if not."""

    @functools.wraps(method)
    def wrapper(self, *args):
        kept = getattr(self, "kept", None)
        if kept is None:
            return method(self, *args)
        key = (method.__name__, *args)
        if key not in kept:
            kept[key] = method(self, *args)
        return kept[key]

    return wrapper
