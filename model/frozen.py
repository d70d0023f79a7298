"""A copy of a network for inference alone: its weights never change, so what follows from them is computed once."""

import copy

import torch
from torch import nn

from model.blocks import EqualConv2d


def freeze(network, dtype=torch.float32):
    """A copy in eval mode whose convolutions are in dtype, so that autocast has nothing to convert, and whose modules
    keep what `kept_when_frozen` methods return."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in network.modules():
        module.kept = {}
        if isinstance(module, nn.Conv2d) and not isinstance(module, EqualConv2d):
            module.to(dtype, memory_format=torch.channels_last)
    return network
