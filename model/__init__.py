"""The network, its diffusion and its sampler."""

from model.build import build_network
from model.errors import ModelError
from model.network import Network

__all__ = ["ModelError", "Network", "build_network"]
