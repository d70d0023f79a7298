"""A network from the `model` section of a config, with the weights that training begins with."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.blocks import EqualConv2d, EqualLinear
from model.fast import accelerate
from model.network import Network
from model.schedule import NoiseSchedule


def build_network(
    model: Mapping[str, Any], initialised: bool = True, fast: bool = True, device: torch.device | str = "cpu"
) -> Network:
    """The network that config["model"] describes, freshly initialised unless weights are to be loaded anyway.

    With fast=False it is the network as `model/network.py` reads, which computes the same without `model.fast`. It is
    on the CPU; where `device` is a GPU, that helps with the first weights.
    """
    network = Network(
        **{key: value for key, value in model["unet"].items() if value is not None},
        image_size=model["diffusion"]["image_size"],
        lr_encoder=model.get("lr_encoder"),
        schedule=NoiseSchedule(model["beta_schedule"]["val"]),
        prediction=model["diffusion"].get("prediction", "epsilon"),
    )
    if initialised:
        initialise(network, device)
    return accelerate(network) if fast else network


@torch.no_grad()
def initialise(network: Network, device: torch.device | str = "cpu") -> None:
    """Orthogonal weights and zero biases, as the published models were trained with; N(0, 1) in equalised layers."""
    for module in network.modules():
        if isinstance(module, EqualConv2d | EqualLinear):
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            orthogonalise(module.weight, device)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for scale1 in network.conditioning.scale1:
        nn.init.ones_(scale1.bias)  # type: ignore[arg-type]  # with s1 = s2 = 0, as where a mask takes both weights, the modulation would vanish


def orthogonalise(weight: Tensor, device: torch.device | str) -> None:
    """What nn.init.orthogonal_ does, to the bit on a CPU. A GPU decomposes the same random numbers, and differs in how
    it rounds."""
    if weight.is_meta:  # a network without values, of which shapes are asked
        return
    drawn = torch.randn(len(weight), weight[0].numel())
    is_wide = drawn.shape[0] < drawn.shape[1]
    q, r = torch.linalg.qr((drawn.T if is_wide else drawn).to(device if torch.device(device).type == "cuda" else "cpu"))
    q *= r.diagonal().sign()
    weight.copy_((q.T if is_wide else q).reshape(weight.shape))
