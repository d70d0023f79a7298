"""A network whose features tell how alike two images look, learnt from images without labels.

It learns from which image a crop is, and how the crop was spoiled. So its features tell textures apart, and sharp from
blurred, wherever exactly the detail lies. Self-supervised features agree with people nearly as well as those of
classifiers (Zhang et al. 2018, arXiv 1801.03924). Images as classes: Dosovitskiy et al. 2014, arXiv 1406.6909.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SPOILED = ("not", "blurred", "noisy", "coarse", "sharpened")  # the ways to spoil a crop


class Stage(nn.Sequential):
    """A convolution, after pooling to half the size where `pool`: (B, C, h, w) -> (B, C', h', w')."""

    def __init__(self, in_channels: int, out_channels: int, size: int, pool: bool = False, stride: int = 1) -> None:
        convolution = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False)
        rest = convolution, nn.BatchNorm2d(out_channels), nn.ReLU()
        super().__init__(*((nn.MaxPool2d(3, 2, 1),) if pool else ()), *rest)


class PerceptualNetwork(nn.Module):
    """Five stages in the shape of AlexNet, and what teaches them. After its training only `features` is used."""

    def __init__(
        self,
        images: int,  # that it learns from
        width: int,  # channels of the first stage
    ) -> None:
        super().__init__()
        self.channels = [width, 2 * width, 4 * width, 4 * width, 4 * width]  # of the features
        first, second, wide, *_ = self.channels
        self.stages = nn.ModuleList(
            [
                Stage(3, first, 7, stride=2),
                Stage(first, second, 5, pool=True),
                Stage(second, wide, 3, pool=True),
                Stage(wide, wide, 3),
                Stage(wide, wide, 3),
            ]
        )
        self.image = nn.Sequential(nn.Dropout(0.3), nn.Linear(wide, images))
        self.way = nn.Linear(first + second + wide, len(SPOILED))
        self.severity = nn.Linear(first + second + wide, 1)

    def features(self, image: Tensor) -> list[Tensor]:
        """An image (B, 3, H, W) in [-1, 1] -> the features of each stage (B, C_i, H/s, W/s), s = 2, 4, 8, 8, 8."""
        found = []
        for stage in self.stages:
            image = stage(image)
            found.append(image)
        return found

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A crop (B, 3, H, W) -> logits of images (B, N), logits of ways (B, 5), and severity (B,), from 0 to 1."""
        means = [found.float().mean((2, 3)) for found in self.features(crop)]
        fine = torch.cat([means[0], means[1], means[-1]], dim=1)
        return self.image(means[-1]), self.way(fine), self.severity(fine)[:, 0]

    def loss(self, crop: Tensor, image: Tensor, way: Tensor, severity: Tensor) -> Tensor:
        """The three parts (3,) of what teaches it, where the crops (B, 3, H, W) are of the images (B,), spoiled so."""
        images, ways, severities = self(crop)
        return torch.stack(
            [F.cross_entropy(images, image), F.cross_entropy(ways, way), F.l1_loss(severities, severity)]
        )
