"""The teacher: what its frozen encoder sees."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from model.diffusion import noisy_at
from model.network import Network


class TeacherFeatures(nn.Module):
    """The frozen encoder of the teacher: what it sees in an image under noise, at each resolution."""

    def __init__(self, teacher: Network) -> None:
        super().__init__()
        self.lr_encoder, self.encoder, self.embedding = teacher.lr_encoder, teacher.encoder, teacher.embedding
        self.eval().requires_grad_(False)
        levels = [list(blocks) for blocks in self.encoder.levels]  # type: ignore[call-overload]
        ends = itertools.accumulate(len(blocks) + 1 for blocks in levels)  # a level: what leads to it, and its blocks
        self.last_skips = [end - 1 for end in ends]
        widths = [blocks[-1].conv2.out_channels for blocks in levels]
        self.channels = [*widths, widths[-1]]  # of the features

    def forward(self, image: Tensor, lr_feature: Tensor, noise: Tensor, noise_level: Tensor) -> list[Tensor]:
        """image, lr_feature and noise (B, 3, H, W), γ (B,) -> the last skip of each level, and the bottleneck."""
        x_t = noisy_at(noise_level[:, None, None, None], image, noise)
        state = self.encoder(torch.cat([lr_feature, x_t], dim=1), self.embedding(noise_level))
        return [*(state.skips[n] for n in self.last_skips), state.bottleneck]
