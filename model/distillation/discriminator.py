"""The discriminator of a distillation: small heads on the features of a frozen diffusion encoder, and one on pixels.

A diffusion network has learnt what images look like at every noise level. Its encoder, held fixed, is the backbone
(latent adversarial diffusion distillation, Sauer et al. 2024). It sees results and truths under the same noise, beside
the LR image that both belong to. Little noise shows it detail, much noise the whole of an image. Where a distillation
has a perceptual network, heads on its features join them.
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


class LocalContrast(nn.Module):
    """Channels without their local mean, in units of their local deviation: (B, 3, H, W) -> (B, 3, H, W).

    Local contrast normalisation (Ruderman 1994): faint grain or a faint pattern in a flat area becomes as large as an
    edge. The windows are Gaussian, of 7×7 pixels. Deviations far below `least` stay small. Sides are above 3 pixels.
    """

    kernel: Tensor

    def __init__(self, sigma: float = 7 / 6, least: float = 4 / 255) -> None:  # least: two grey levels of 255
        super().__init__()
        taps = torch.exp(-torch.arange(-3.0, 4.0).square() / (2 * sigma**2))
        taps /= taps.sum()
        self.register_buffer("kernel", torch.outer(taps, taps).expand(3, 1, 7, 7).contiguous(), persistent=False)
        self.least = least

    def forward(self, image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):  # faint differences need all digits
            image = image.float()
            rest = image - self.blur(image)
            return rest / (self.blur(rest.square()).clamp(min=1e-8).sqrt() + self.least)

    def blur(self, image: Tensor) -> Tensor:
        return F.conv2d(F.pad(image, (3, 3, 3, 3), mode="reflect"), self.kernel, groups=3)


def opponent(image: Tensor) -> Tensor:
    """RGB (B, 3, H, W) in [-1, 1] -> lightness in [-1, 1], red against green and yellow against blue in [-2, 2].

    A dot of colour is an edge in one of them, even where it is as light as what is around it.
    """
    red, green, blue = image.unbind(1)
    return torch.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue], dim=1)


class PixelHead(nn.Module):
    """Image and up-sampled LR image (B, 3, H, W) -> logits of patches of 46 pixels, (B, 1, ⌊H/4⌋, ⌊W/4⌋).

    It sees the local contrast of lightness and colours beside the image: else it would pass over what is faint.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow, wide = max(width // 2, 1), 2 * width
        self.contrast = LocalContrast()
        self.layers = nn.Sequential(
            conv(9, narrow), nn.LeakyReLU(SLOPE),
            conv(narrow, narrow), nn.LeakyReLU(SLOPE), Blur(),
            conv(narrow, width), nn.LeakyReLU(SLOPE),
            conv(width, width), nn.LeakyReLU(SLOPE), Blur(),
            conv(width, wide), nn.LeakyReLU(SLOPE),
            conv(wide, wide), nn.LeakyReLU(SLOPE), conv(wide, 1),
        )  # fmt: skip

    def forward(self, image: Tensor, lr_up: Tensor) -> Tensor:
        logits: Tensor = self.layers(torch.cat([image, self.contrast(opponent(image)), lr_up], dim=1))
        return logits


class Discriminator(nn.Module):
    """A head for each level of features, and one for pixels: what is trained against the student."""

    def __init__(
        self,
        channels: Sequence[int],  # of the features: the teacher's, finest level to bottleneck, then others
        width: int = 64,  # channels inside a head
        pixels: bool = False,  # whether there is a head for pixels
    ) -> None:
        super().__init__()
        self.feature_heads = nn.ModuleList(FeatureHead(c, width) for c in channels)
        self.pixel_head = PixelHead(width) if pixels else None

    def forward(self, features: Sequence[Tensor], image: Tensor, lr_up: Tensor) -> list[Tensor]:
        """Features of each level, the image and the up-sampled LR image (B, 3, H, W) -> the logits of each head."""
        logits = [head(f) for head, f in zip(self.feature_heads, features, strict=True)]
        if self.pixel_head is not None:
            logits.append(self.pixel_head(image, lr_up))
        return logits


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the discriminator: the mean over heads of max(0, 1 - D(real)) + max(0, 1 + D(fake))."""
    losses = [F.relu(1 - r.float()).mean() + F.relu(1 + f.float()).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the generator: the mean over heads of -D(fake)."""
    return -torch.stack([f.float().mean() for f in fake]).mean()
