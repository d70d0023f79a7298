"""How large a network is."""

from torch import nn

from model import Network


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def active_share(network: Network) -> float:
    """The share of the prunable weights that are not zero."""
    weights = network.prunable_parameters().values()
    return sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)
