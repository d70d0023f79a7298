"""How large a network is."""

from torch import nn

from model import Network


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def active_share(network: Network) -> float:
    """The share of the prunable weights that are not zero."""
    weights = [weight.detach().cpu() for weight in network.prunable_parameters().values()]  # a GPU may be full
    return sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)
