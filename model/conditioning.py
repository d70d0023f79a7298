"""Everything that the network knows of the low-resolution image: computed once per image, whatever the noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.blocks import EqualConv2d, EqualLinear, FusedLeakyReLU, repeated
from model.resampling import resample, resample_trained


@dataclass(frozen=True)
class Condition:
    """What `Network.condition` returns and `encode` and `decode` take."""

    lr_feature: Tensor  # (B, 3, H, W)
    gains: tuple[Tensor, ...]  # of the implicit upsampler from level 1, 2, ...: (B, C_i, 1, 1)
    shifts: tuple[Tensor, ...]  # likewise: (B, C_i, H/2^i, W/2^i)

    def repeated(self, images: int) -> Condition:
        """The same for a multiple of the B images, one copy after the other."""
        gains, shifts = (tuple(repeated(x, images) for x in tensors) for tensors in (self.gains, self.shifts))
        return Condition(repeated(self.lr_feature, images), gains, shifts)


def conv3(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1)


class LREncoder(nn.Module):
    """EDSR-style encoder (Lim et al. 2017) of the LR image, resized to the target: (B, 3, h, w) -> (B, 3, H, W).

    The published one copies its features to all pixels of the target (`sub_pixel` 1). With `sub_pixel` n, each LR pixel
    has n × n values of its own (Shi et al. 2016), and the image of n times the size is resized to the target.
    """

    def __init__(self, n_resblocks: int = 16, n_feats: int = 64, sub_pixel: int = 1) -> None:
        super().__init__()
        self.sub_pixel = sub_pixel
        self.head = nn.Conv2d(3, n_feats, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv3(n_feats), nn.ReLU(), conv3(n_feats)) for _ in range(n_resblocks)
        )
        self.body_end = conv3(n_feats)
        self.tail = nn.Conv2d(n_feats, 3 * sub_pixel**2, 3, padding=1)

    def forward(self, lr_image: Tensor, size: Sequence[int]) -> Tensor:
        if self.sub_pixel > 1:
            return resized(self.enlarged(lr_image), size)
        h = F.interpolate(self.features(lr_image), size=tuple(size), mode="nearest")  # (B, F, H, W)
        return self.tail(h)  # (B, 3, H, W)

    def features(self, lr_image: Tensor) -> Tensor:
        """What is resized: (B, 3, h, w) -> (B, F, h, w)."""
        head = self.head(lr_image)
        h = head
        for block in self.blocks:
            h = h + block(h)
        return self.body_end(h) + head

    def enlarged(self, lr_image: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, 3, n·h, n·w), where n is `sub_pixel`."""
        return F.pixel_shuffle(self.tail(self.features(lr_image)), self.sub_pixel)


def resized(image: Tensor, size: Sequence[int]) -> Tensor:
    """(B, 3, h, w) -> (B, 3, H, W), bicubic where that is another size."""
    if image.shape[2:] == torch.Size(size):
        return image
    resize = resample_trained if image.requires_grad else resample
    return resize(image.float(), size).to(image.dtype)


class ConditioningPyramid(nn.Module):
    """From the LR feature, the gain and shift of each implicit upsampler.

    This is the scale-adaptive conditioning of IDM (Gao et al. 2023).
    """

    kernel: Tensor

    def __init__(self, inner_channel: int, channels: Sequence[int]) -> None:  # of g_0, and of each UNet level
        super().__init__()
        coarser = range(1, len(channels))
        self.first = nn.Sequential(
            EqualConv2d(3, inner_channel, 3, padding=1, bias=False), FusedLeakyReLU(inner_channel)
        )
        widths = [inner_channel, *channels]  # g_0 has C channels, g_{i+1} has C·m_i
        self.down = nn.ModuleList(
            nn.Sequential(
                EqualConv2d(widths[i - 1], widths[i], 3, stride=2, padding=1, bias=False), FusedLeakyReLU(widths[i])
            )
            for i in coarser
        )
        self.shift = nn.ModuleList(EqualConv2d(widths[i], channels[i], 3, padding=1) for i in coarser)
        self.scale1 = nn.ModuleList(EqualLinear(1, channels[i]) for i in coarser)
        self.scale2 = nn.ModuleList(EqualLinear(1, channels[i]) for i in coarser)
        kernel = torch.tensor([1.0, 3.0, 1.0])
        self.register_buffer("kernel", torch.outer(kernel, kernel)[None, None] / 25, persistent=False)

    def blur(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel.to(x.dtype).expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])

    def forward(self, lr_feature: Tensor, scale: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """LR feature (B, 3, H, W), scale p (B, 1) -> gains and shifts of a Condition."""
        gains, shifts = [], []
        g = self.first(lr_feature)  # (B, C, H, W)
        for down, shift, scale1, scale2 in zip(self.down, self.shift, self.scale1, self.scale2, strict=True):
            g = down(self.blur(g))  # (B, C_{i-1}, H/2^i, W/2^i)
            s1, s2 = scale1(scale), scale2(scale)  # (B, C_i)
            r = torch.rsqrt(s1.square() + s2.square() + 1e-8)
            shifted = shift(g)  # (B, C_i, H/2^i, W/2^i)
            gains.append((s1 * r).to(shifted.dtype)[:, :, None, None])
            shifts.append(shifted * (s2 * r).to(shifted.dtype)[:, :, None, None])
        return tuple(gains), tuple(shifts)


def relative_scale(size: Sequence[int], lr_size: Sequence[int], factor: float) -> float:
    """The scale p in [0, 1] of a target size: 0 at the LR size, 1 at `factor` times it, the largest that was trained.

    Sizes are (height, width) in pixels. With sides l -> s and the full side r = factor·l, p = (s - l)/(r - l).
    """
    magnification = (size[0] / lr_size[0] + size[1] / lr_size[1]) / 2
    return min(max((magnification - 1) / (factor - 1), 0.0), 1.0) if factor > 1 else 1.0
