"""The UNet, encoder and decoder apart, so that a sampler can run the encoder at key steps alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from model.blocks import ResidualBlock, norm_silu, repeated
from model.implicit_upsampler import ImplicitUpsampler


@dataclass(frozen=True)
class EncoderState:
    """What the decoder needs of the encoder: every intermediate output, in order, and the bottleneck."""

    skips: tuple[Tensor, ...]  # (B, C_i, H/2^i, W/2^i), of level i
    bottleneck: Tensor  # (B, C_L, H/2^L, W/2^L), of the last level L

    def repeated(self, images: int) -> EncoderState:
        """The same for a multiple of the B images, one copy after the other."""
        return EncoderState(tuple(repeated(skip, images) for skip in self.skips), repeated(self.bottleneck, images))


class UNetEncoder(nn.Module):
    """[LR feature, noisy image] (B, 6, H, W) and a noise embedding (B, inner_channel) -> EncoderState."""

    def __init__(
        self,
        in_channel: int,
        inner_channel: int,
        channels: Sequence[int],  # of each level, the finest first
        attention: Sequence[bool],  # of each level
        res_blocks: int,
        norm_groups: int,
        dropout: float,
        mid_attention: bool = True,  # of the bottleneck
    ) -> None:
        super().__init__()
        self.input = nn.Conv2d(in_channel, inner_channel, 3, padding=1)
        self.levels = nn.ModuleList()
        self.downsamples = nn.ModuleList()
        width = inner_channel
        for level, out in enumerate(channels):
            blocks = nn.ModuleList()
            for _ in range(res_blocks):
                blocks.append(ResidualBlock(width, out, inner_channel, norm_groups, dropout, attention[level]))
                width = out
            self.levels.append(blocks)
            if level + 1 < len(channels):
                self.downsamples.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
        self.mid1 = ResidualBlock(width, width, inner_channel, norm_groups, dropout, mid_attention)
        self.mid2 = ResidualBlock(width, width, inner_channel, norm_groups, dropout)

    def forward(self, x: Tensor, embedding: Tensor) -> EncoderState:
        h = self.input(x)  # (B, C, H, W)
        skips = [h]
        for level, blocks in enumerate(self.levels):
            for block in blocks:  # type: ignore[attr-defined]  # of a ModuleList
                h = block(h, embedding)  # (B, C_i, H/2^i, W/2^i)
                skips.append(h)
            if level < len(self.downsamples):
                h = self.downsamples[level](h)  # (B, C_i, H/2^(i+1), W/2^(i+1)), odd sides rounded up
                skips.append(h)
        h = self.mid2(self.mid1(h, embedding), embedding)  # (B, C_L, H/2^L, W/2^L)
        return EncoderState(tuple(skips), h)

    @staticmethod
    def skip_channels(inner_channel: int, channels: Sequence[int], res_blocks: int) -> list[int]:
        """Channels of the skips, in the order in which they are made."""
        widths = [inner_channel]
        for level, out in enumerate(channels):
            widths += [out] * (res_blocks + (level + 1 < len(channels)))
        return widths


class UNetDecoder(nn.Module):
    """EncoderState, noise embedding (B, inner_channel), gains and shifts of a Condition -> prediction (B, 3, H, W)."""

    def __init__(
        self,
        out_channel: int,
        inner_channel: int,
        channels: Sequence[int],
        attention: Sequence[bool],
        res_blocks: int,
        norm_groups: int,
        dropout: float,
    ) -> None:
        super().__init__()
        skips = UNetEncoder.skip_channels(inner_channel, channels, res_blocks)
        width = channels[-1]
        self.levels = nn.ModuleList()  # from the coarsest level to the finest
        self.upsamplers = nn.ModuleList()
        for level in reversed(range(len(channels))):
            blocks = nn.ModuleList()
            for _ in range(res_blocks + 1):
                shape = (width + skips.pop(), channels[level], inner_channel)
                blocks.append(ResidualBlock(*shape, norm_groups, dropout, attention[level]))
                width = channels[level]
            self.levels.append(blocks)
            if level > 0:
                self.upsamplers.append(ImplicitUpsampler(width))
        self.norm = norm_silu(norm_groups, width)
        self.output = nn.Conv2d(width, out_channel, 3, padding=1)

    def forward(
        self, state: EncoderState, embedding: Tensor, gains: Sequence[Tensor], shifts: Sequence[Tensor]
    ) -> Tensor:
        skips = list(state.skips)
        h = state.bottleneck  # (B, C_L, H/2^L, W/2^L)
        for n, blocks in enumerate(self.levels):
            for block in blocks:  # type: ignore[attr-defined]  # of a ModuleList
                h = block(h, embedding, skips.pop())  # (B, C_i, H/2^i, W/2^i)
            if n < len(self.upsamplers):
                h = self.upsamplers[n](h, gains[-1 - n], shifts[-1 - n], skips[-1].shape[2:])  # to the next level
        return self.output(self.norm(h))  # (B, 3, H, W)
