"""The discriminator of a distillation: small heads on the features of a frozen diffusion encoder, and one on pixels.

A diffusion network has learnt what images look like at every noise level. Its encoder, held fixed, is the backbone
(latent adversarial diffusion distillation, Sauer et al. 2024). It sees results and truths under the same noise, beside
the LR image that both belong to. Little noise shows it detail, much noise the whole of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2  # of every LeakyReLU here


def conv(in_channels: int, out_channels: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, padding=size // 2)


class Blur(nn.Module):
    """Half the size, without aliasing (Zhang 2019): a discriminator that aliases asks for patterns."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, ⌊H/2⌋, ⌊W/2⌋)
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=x.shape[1])


class FeatureHead(nn.Sequential):
    """Features (B, C, h, w) of one level -> a logit for each of their places, (B, 1, h, w)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            conv(channels, width, 1), nn.LeakyReLU(SLOPE), conv(width, width), nn.LeakyReLU(SLOPE), conv(width, 1)
        )


class PixelHead(nn.Sequential):
    """Image and up-sampled LR image (B, 6, H, W) -> logits of patches of about 20 pixels, (B, 1, H/4, W/4)."""

    def __init__(self, width: int) -> None:
        super().__init__(
            conv(6, width), nn.LeakyReLU(SLOPE),
            conv(width, width), nn.LeakyReLU(SLOPE), Blur(),
            conv(width, width), nn.LeakyReLU(SLOPE), Blur(),
            conv(width, width), nn.LeakyReLU(SLOPE), conv(width, 1),
        )  # fmt: skip


class Discriminator(nn.Module):
    """A head for each level of features, and one for pixels: what is trained against the student."""

    def __init__(
        self,
        channels: Sequence[int],  # of the features, from the finest level to the bottleneck
        width: int = 64,  # channels inside a head
        pixels: bool = False,  # whether there is a head for pixels
    ) -> None:
        super().__init__()
        self.feature_heads = nn.ModuleList(FeatureHead(c, width) for c in channels)
        self.pixel_head = PixelHead(width) if pixels else None

    def forward(self, features: Sequence[Tensor], image: Tensor, lr_up: Tensor) -> list[Tensor]:
        """Features of each level, the image and the up-sampled LR image (B, 3, H, W) -> the logits of each head."""
        logits = [head(f) for head, f in zip(self.feature_heads, features, strict=True)]
        return logits if self.pixel_head is None else [*logits, self.pixel_head(torch.cat([image, lr_up], dim=1))]


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the discriminator: the mean over heads of max(0, 1 - D(real)) + max(0, 1 + D(fake))."""
    losses = [F.relu(1 - r.float()).mean() + F.relu(1 + f.float()).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the generator: the mean over heads of -D(fake)."""
    return -torch.stack([f.float().mean() for f in fake]).mean()
