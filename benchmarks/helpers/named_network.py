"""The network that sampling.py and photos.py are told to measure."""

import torch

from core.checkpoint import load_network
from core.config import Config, load_config
from core.config.files import is_config
from model import Network, build_network


def named_network(name: str, device: torch.device, initialised: bool = True) -> tuple[Network, Config]:
    """That of a checkpoint, or of a config: with random weights, or where not initialised, with any."""
    if not is_config(name):
        return load_network(name, device)
    torch.manual_seed(0)
    config = load_config(name, flags={"phase": "train"})
    return build_network(config.model, initialised=initialised).eval().to(device), config
