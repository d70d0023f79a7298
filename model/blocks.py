"""The layers that the network is made of."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from model.group_norm import group_norm_silu


class EqualConv2d(nn.Conv2d):
    """Convolution with an equalised learning rate (Karras et al. 2018): weights ~ N(0, 1), scaled by 1/sqrt(fan_in)."""

    def __init__(self, in_channels, out_channels, kernel_size, **kwargs):
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)
        self.gain = 1 / math.sqrt(in_channels * kernel_size**2)

    def forward(self, x):
        return F.conv2d(x, self.weight * self.gain, self.bias, self.stride, self.padding)


class EqualLinear(nn.Linear):
    """Linear layer with an equalised learning rate: weights ~ N(0, 1), scaled by 1/sqrt(fan_in)."""

    def forward(self, x):
        return F.linear(x, self.weight / math.sqrt(self.in_features), self.bias)


class FusedLeakyReLU(nn.Module):
    """leaky_relu(x + bias, 0.2)·sqrt(2): the bias of the layer before it and a gain that keeps the variance."""

    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):  # (B, C, H, W)
        return F.leaky_relu(x + self.bias[:, None, None], 0.2) * math.sqrt(2)


class NoiseLevelEmbedding(nn.Module):
    """Sinusoids of the continuous noise level γ in (0, 1], then an MLP (WaveGrad, Chen et al. 2021)."""

    def __init__(self, channels):
        super().__init__()
        frequencies = torch.exp(-math.log(1e4) * torch.arange(channels // 2) / (channels // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.expand = nn.Linear(channels, 4 * channels)
        self.project = nn.Linear(4 * channels, channels)

    def forward(self, noise_level):  # (N,)
        angles = noise_level[:, None].float() * self.frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.project(F.silu(self.expand(waves)))  # (N, C)


def normalise(norm, x, shift=None, silu=True):
    """A GroupNorm's silu(norm(x + shift)), or without the SiLU: x (B, C, H, W), shift (B, C) or None."""
    return group_norm_silu(x, norm.weight, norm.bias, norm.num_groups, norm.eps, shift, silu)


class SelfAttention(nn.Module):
    """One head of attention over all pixels, with a residual connection."""

    def __init__(self, channels, norm_groups):
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x):  # (B, C, H, W)
        pixels = self.qkv(normalise(self.norm, x, silu=False)).flatten(2).transpose(1, 2)  # (B, H·W, 3·C)
        q, k, v = pixels.chunk(3, dim=2)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, conv; plus the noise embedding; GroupNorm, SiLU, dropout, conv; plus the input; attention."""

    def __init__(self, in_channels, out_channels, emb_channels, norm_groups, dropout=0.0, attention=False):
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.noise = nn.Linear(emb_channels, out_channels)
        self.norm2 = nn.GroupNorm(norm_groups, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.attention = SelfAttention(out_channels, norm_groups) if attention else nn.Identity()

    def forward(self, x, embedding):  # (B, C_in, H, W), (B, C_emb)
        h = F.conv2d(normalise(self.norm1, x), self.conv1.weight, padding=1)
        h = normalise(self.norm2, h, shift=self.noise(embedding) + self.conv1.bias)
        h = self.conv2(self.dropout(h))
        return self.attention(h + self.shortcut(x))  # (B, C_out, H, W)
