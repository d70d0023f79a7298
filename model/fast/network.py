"""The switch between the plain network and the fast one, which are the same parameters under other classes."""

from typing import TypeVar

from torch import Tensor, nn

from model.blocks import GroupNormSiLU, ResidualBlock, SelfAttention
from model.conditioning import Condition
from model.fast.blocks import FastGroupNormSiLU, FastResidualBlock, FastSelfAttention
from model.fast.implicit_upsampler import FastImplicitUpsampler
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
    GroupNormSiLU: FastGroupNormSiLU,
    SelfAttention: FastSelfAttention,
    ResidualBlock: FastResidualBlock,
    ImplicitUpsampler: FastImplicitUpsampler,
    UNetEncoder: FastUNetEncoder,
    UNetDecoder: FastUNetDecoder,
    Network: FastNetwork,
}
PLAIN = {fast: plain for plain, fast in FAST.items()}


def accelerate(network: AnyNetwork) -> AnyNetwork:
    """Makes the network fast, in place: each module gets the class that computes the same in less time."""
    return _change_classes(network, FAST)


def make_plain(network: AnyNetwork) -> AnyNetwork:
    """The way back, in place."""
    return _change_classes(network, PLAIN)


def _change_classes(network: AnyNetwork, classes: dict[type[nn.Module], type[nn.Module]]) -> AnyNetwork:
    for module in network.modules():
        module.__class__ = classes.get(type(module), type(module))  # type: ignore[assignment]
    return network
