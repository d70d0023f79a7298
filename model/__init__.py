"""The network, its diffusion and its sampler."""

from model.errors import ModelError
from model.network import Network, build_network

__all__ = ["ModelError", "Network", "build_network"]
