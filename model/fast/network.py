"""The switch between the plain network and the fast one: the same parameters, other classes, another memory layout."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from model.blocks import EqualConv2d, FusedLeakyReLU, GroupNormSiLU, ResidualBlock, SelfAttention
from model.conditioning import Condition, LREncoder
from model.fast.blocks import (
    FastConv2d,
    FastEqualConv2d,
    FastFusedLeakyReLU,
    FastGroupNormSiLU,
    FastResidualBlock,
    FastSelfAttention,
)
from model.fast.implicit_upsampler import FastImplicitUpsampler
from model.fast.lr_encoder import FastLREncoder
from model.fast.unet import FastUNetDecoder, FastUNetEncoder
from model.implicit_upsampler import ImplicitUpsampler
from model.network import Network
from model.unet import EncoderState, UNetDecoder, UNetEncoder

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


class FastNetwork(Network):
    def decode(self, state: EncoderState, noise_level: Tensor, condition: Condition) -> Tensor:
        """As in Network, but the K steps share the state of B images."""
        prediction = self.decoder(state, self.embedding(noise_level.flatten()), condition.gains, condition.shifts)
        return prediction.unflatten(0, noise_level.shape)


FAST: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: FastConv2d,
    EqualConv2d: FastEqualConv2d,
    FusedLeakyReLU: FastFusedLeakyReLU,
    GroupNormSiLU: FastGroupNormSiLU,
    SelfAttention: FastSelfAttention,
    ResidualBlock: FastResidualBlock,
    LREncoder: FastLREncoder,
    ImplicitUpsampler: FastImplicitUpsampler,
    UNetEncoder: FastUNetEncoder,
    UNetDecoder: FastUNetDecoder,
    Network: FastNetwork,
}
PLAIN = {fast: plain for plain, fast in FAST.items()}


def accelerate(network: AnyNetwork) -> AnyNetwork:
    """Makes the network fast, in place: each module gets the class that computes the same in less time, and weights are
    channels-last, which makes activations so: twice as fast on CPUs and on GPUs."""
    return _change(network, FAST, torch.channels_last)


def make_plain(network: AnyNetwork) -> AnyNetwork:
    """The way back, in place, also to torch's own memory layout."""
    return _change(network, PLAIN, torch.contiguous_format)


def _change(
    network: AnyNetwork, classes: dict[type[nn.Module], type[nn.Module]], layout: torch.memory_format
) -> AnyNetwork:
    for module in network.modules():
        module.__class__ = classes.get(type(module), type(module))  # type: ignore[assignment]
    return network.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs lack it
