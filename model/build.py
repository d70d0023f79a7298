"""A network from the `model` section of a config, with the weights that training begins with."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from model.blocks import EqualConv2d, EqualLinear
from model.fast import accelerate
from model.network import Network
from model.schedule import NoiseSchedule


def build_network(model: Mapping[str, Any], initialised: bool = True, fast: bool = True) -> Network:
    """The network that config["model"] describes, freshly initialised unless weights are to be loaded anyway.

    With fast=False it is the network as `model/network.py` reads, which computes the same without `model.fast`.
    """
    network = Network(
        **{key: value for key, value in model["unet"].items() if value is not None},
        image_size=model["diffusion"]["image_size"],
        lr_encoder=model.get("lr_encoder"),
        schedule=NoiseSchedule(model["beta_schedule"]["val"]),
        prediction=model["diffusion"].get("prediction", "epsilon"),
    )
    if initialised:
        initialise(network)
    return accelerate(network) if fast else network


@torch.no_grad()
def initialise(network: Network) -> None:
    """Orthogonal weights and zero biases, as the published models were trained with; N(0, 1) in equalised layers."""
    for module in network.modules():
        if isinstance(module, EqualConv2d | EqualLinear):
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for scale1 in network.conditioning.scale1:
        nn.init.ones_(scale1.bias)  # type: ignore[arg-type]  # with s1 = s2 = 0, as where a mask takes both weights, the modulation would vanish
