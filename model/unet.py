"""The UNet, encoder and decoder apart, so that a sampler can run the encoder at key steps alone."""

import itertools
from dataclasses import dataclass

from torch import Tensor, nn

from model.blocks import ResidualBlock, noise_shifts, normalise
from model.implicit_upsampler import ImplicitUpsampler


@dataclass(frozen=True)
class EncoderState:
    """What the decoder needs of the encoder: every intermediate output, in order, and the bottleneck."""

    skips: tuple[Tensor, ...]
    bottleneck: Tensor


class UNetEncoder(nn.Module):
    """[LR feature, noisy image] (B, 6, H, W) and a noise embedding (B, inner_channel) -> EncoderState."""

    def __init__(self, in_channel, inner_channel, channels, attention, res_blocks, norm_groups, dropout):
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
        self.mid1 = ResidualBlock(width, width, inner_channel, norm_groups, dropout, attention=True)
        self.mid2 = ResidualBlock(width, width, inner_channel, norm_groups, dropout)

    def forward(self, x, embedding):
        shifts = iter(noise_shifts([*itertools.chain(*self.levels), self.mid1, self.mid2], embedding))
        h = self.input(x)
        skips = [h]
        for level, blocks in enumerate(self.levels):
            for block in blocks:
                h = block(h, next(shifts))
                skips.append(h)
            if level < len(self.downsamples):
                h = self.downsamples[level](h)
                skips.append(h)
        return EncoderState(tuple(skips), self.mid2(self.mid1(h, next(shifts)), next(shifts)))

    @staticmethod
    def skip_channels(inner_channel, channels, res_blocks):
        """Channels of the skips, in the order in which they are made."""
        widths = [inner_channel]
        for level, out in enumerate(channels):
            widths += [out] * (res_blocks + (level + 1 < len(channels)))
        return widths


class UNetDecoder(nn.Module):
    """EncoderState of B images, K·B noise embeddings, gains and shifts of a Condition -> prediction (K·B, 3, H, W)."""

    def __init__(self, out_channel, inner_channel, channels, attention, res_blocks, norm_groups, dropout):
        super().__init__()
        skips = UNetEncoder.skip_channels(inner_channel, channels, res_blocks)
        width = channels[-1]
        levels, upsamplers = [], []  # from the coarsest level to the finest
        for level in reversed(range(len(channels))):
            blocks = nn.ModuleList()
            for _ in range(res_blocks + 1):
                shape = (width + skips.pop(), channels[level], inner_channel)
                blocks.append(ResidualBlock(*shape, norm_groups, dropout, attention[level]))
                width = channels[level]
            levels.append(blocks)
            if level > 0:
                upsamplers.append(ImplicitUpsampler(width))
        self.levels = nn.ModuleList(levels)
        self.upsamplers = nn.ModuleList(upsamplers)
        self.norm = nn.GroupNorm(norm_groups, width)
        self.output = nn.Conv2d(width, out_channel, 3, padding=1)

    def forward(self, state, embedding, gains, shifts):
        skips = list(state.skips)
        noise = iter(noise_shifts([*itertools.chain(*self.levels)], embedding))
        h = state.bottleneck  # of B images until the embedding first makes a difference between steps
        for n, blocks in enumerate(self.levels):
            for block in blocks:
                h = block(h, next(noise), skips.pop())
            if n < len(self.upsamplers):
                h = self.upsamplers[n](h, gains[-1 - n], shifts[-1 - n], skips[-1].shape[2:])
        return self.output(normalise(self.norm, h))
