"""The layers that the network is made of."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE, GAIN = 0.2, 2**0.5  # of FusedLeakyReLU


def in_full_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast is off inside: for small products whose rounding would reach every pixel."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return function(*args)

    return wrapper


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def repeated(x: Tensor, images: int) -> Tensor:
    """Repeats the batch, (B, ...) -> (images, ...): image n of the result is image n mod B of x."""
    return x if len(x) == images else torch.cat([x] * (images // len(x)))  # which stays channels-last


class EqualConv2d(nn.Conv2d):
    """Convolution with an equalised learning rate (Karras et al. 2018): weights ~ N(0, 1), divided by sqrt(fan_in)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)
        self.gain = 1 / math.sqrt(in_channels * kernel_size**2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.gain, self.bias, self.stride, self.padding)


class EqualLinear(nn.Linear):
    """Linear layer with an equalised learning rate: weights ~ N(0, 1), divided by sqrt(fan_in)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight / math.sqrt(self.in_features), self.bias)


class FusedLeakyReLU(nn.Module):
    """leaky_relu(x + bias, 0.2)·sqrt(2): the bias of the layer before it and a gain that keeps the variance."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        return F.leaky_relu(x + self.bias.to(x.dtype)[:, None, None], SLOPE) * GAIN


class GroupNormSiLU(nn.GroupNorm):
    """silu(group_norm(x)) (Wu & He 2018)."""

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        return F.silu(super().forward(x))


def norm_silu(norm_groups: int, channels: int) -> nn.Module:
    """GroupNorm and SiLU; with 0 groups the SiLU alone, as in networks that keep to what each place shows."""
    return GroupNormSiLU(norm_groups, channels) if norm_groups else nn.SiLU()


class NoiseLevelEmbedding(nn.Module):
    """Sinusoids of the continuous noise level γ in (0, 1], then an MLP (WaveGrad, Chen et al. 2021)."""

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        frequencies = torch.exp(-math.log(1e4) * torch.arange(channels // 2) / (channels // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.expand = nn.Linear(channels, 4 * channels)
        self.project = nn.Linear(4 * channels, channels)

    @in_full_precision
    def forward(self, noise_level: Tensor) -> Tensor:  # (B,)
        angles = noise_level[:, None].float() * self.frequencies  # (B, C/2)
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (B, C)
        return self.project(F.silu(self.expand(waves)))  # (B, C)


class SelfAttention(nn.Module):
    """One head of attention over all pixels, with a residual connection."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        pixels = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)[:, None]  # (B, 1, H·W, 3·C)
        mixed = F.scaled_dot_product_attention(*pixels.chunk(3, dim=3))  # (B, 1, H·W, C)
        return x + self.out(mixed[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))  # (B, C, H, W)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, conv; plus the noise embedding; GroupNorm, SiLU, dropout, conv; plus the input; attention."""

    def __init__(
        self,
        in_channels: int,  # with those of the skip, in the decoder
        out_channels: int,
        emb_channels: int,
        norm_groups: int,
        dropout: float = 0.0,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = norm_silu(norm_groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.noise = nn.Linear(emb_channels, out_channels)
        self.norm2 = norm_silu(norm_groups, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.attention = SelfAttention(out_channels, norm_groups) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), embedding (B, C_emb) and, in the decoder, a skip (B, C_skip, H, W) -> (B, C_out, H, W)."""
        if skip is not None:
            x = torch.cat([x, skip], dim=1)  # (B, C + C_skip, H, W)
        h = self.conv1(self.norm1(x))  # (B, C_out, H, W)
        h = h + self.noise(embedding)[:, :, None, None]
        h = self.conv2(self.dropout(self.norm2(h)))
        return self.attention(h + self.shortcut(x))
