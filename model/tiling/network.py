"""A network that sees tiles of one image, and computes in each what it would compute there in the whole image."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.blocks import GroupNormSiLU, SelfAttention, ceil_div
from model.conditioning import Condition
from model.fast import inference_copy, make_plain
from model.implicit_upsampler import ImplicitUpsampler, nearest_pixels
from model.network import Network
from model.tiling.enlarged import EnlargedImage
from model.tiling.plan import Slices, Span, Tile, crop
from model.tiling.statistics import Cores, SharedGroupNorm, SharedGroupNormSiLU, Statistics
from model.unet import EncoderState, UNetDecoder, UNetEncoder

Size = tuple[int, int]  # (height, width)


def attends(network: nn.Module) -> bool:
    """Whether pixels look at all others, so that no tile can have what they would see."""
    return any(isinstance(module, SelfAttention) for module in network.modules())


def has_norms(network: nn.Module) -> bool:
    """Whether norms look at the whole image, so that tiles have to share what these find."""
    return any(isinstance(module, nn.GroupNorm) for module in network.modules())


@dataclass
class Canvas:
    """The whole image, and the tiles of it that the network is looking at."""

    size: Size  # of the result
    lr_size: Size
    levels: list[Size]  # the size at each level of the UNet
    tiles: Sequence[Tile] = field(default_factory=list)

    @classmethod
    def of(cls, size: Size, lr_size: Size, levels: int) -> "Canvas":
        return cls(size, lr_size, [(ceil_div(size[0], 2**n), ceil_div(size[1], 2**n)) for n in range(levels)])

    def cores(self, level: int) -> Cores:
        """The cores in their windows, at a level."""
        return [
            (at_level(tile.rows, level).core_in_window, at_level(tile.columns, level).core_in_window)
            for tile in self.tiles
        ]

    def lr_window(self, tile: Tile, margin: int = 0) -> Slices:
        """The LR pixels of a window, and so many more on each side where there are."""
        rows, columns = (self._lr_pixels(axis, tile[axis], margin) for axis in (0, 1))
        return rows, columns

    def _lr_pixels(self, axis: int, span: Span, margin: int) -> slice:
        length, lr_length = self.size[axis], self.lr_size[axis]
        start, stop = span.start * lr_length // length, ceil_div(span.stop * lr_length, length)
        return slice(max(start - margin, 0), min(stop + margin, lr_length))


def at_level(span: Span, level: int) -> Span:
    """A span at a level of the UNet, where a pixel is 2^level pixels of the result and sides are rounded up."""
    return Span(*(ceil_div(bound, 2**level) for bound in span))


class PlacedUpsampler(ImplicitUpsampler):
    """Takes the nearest pixels, and the offsets from them, that a tile has in the whole image: where sides were rounded
    up on the way down, as 101 → 51 → 26, they are others at each place."""

    canvas: Canvas
    level: int  # of the result

    def forward(self, h: Tensor, gain: Tensor, shift: Tensor, size: Sequence[int]) -> Tensor:
        source, target = self.canvas.levels[self.level + 1], self.canvas.levels[self.level]
        if target == (2 * source[0], 2 * source[1]):
            return super().forward(h, gain, shift, size)  # every place is like every other
        on_feature, *by_offset = self.affine(source, target)
        h = F.conv2d(self.activation(h * gain + shift), on_feature)
        placed = [self.place(image, tile, by_offset) for image, tile in zip(h, self.canvas.tiles, strict=True)]
        return torch.stack(placed).contiguous(memory_format=torch.channels_last)

    def place(self, image: Tensor, tile: Tile, by_offset: Sequence[Tensor]) -> Tensor:
        """image (C, h, w) of a tile -> (C, H, W)."""
        source, target = self.canvas.levels[self.level + 1], self.canvas.levels[self.level]
        added = []
        for axis in (0, 1):
            window, start = at_level(tile[axis], self.level).window, at_level(tile[axis], self.level + 1).start
            nearest = nearest_pixels(source[axis], target[axis], image.device)[0][window] - start
            image = image.index_select(axis + 1, nearest.clamp(0, image.shape[axis + 1] - 1))
            added.append(by_offset[axis][window].T.to(image.dtype))
        return image + added[0][:, :, None] + added[1][:, None, :]


class TiledNetwork:
    """`condition`, `encode` and `decode` of a network for tiles of one image, those that it was told to `look_at`.

    A pixel does not see what is beyond its window; with attention that would matter. Weights are those at the time
    that this is made.
    """

    def __init__(self, network: Network, lr_image: Tensor, size: Size, dtype: torch.dtype = torch.float32) -> None:
        self.network = make_plain(inference_copy(network, dtype)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.lr_image = lr_image  # (1, 3, h, w)
        self.statistics = Statistics()
        self.has_norms = has_norms(self.network)
        levels = len(self.network.encoder.levels)
        self.canvas = Canvas.of(size, (lr_image.shape[2], lr_image.shape[3]), levels)
        self.multiple = 2 ** (levels - 1)  # of pixels, where tiles may begin
        self.enlarged = EnlargedImage(self.network.lr_encoder, lr_image, size)
        numbers = iter(range(10**6))
        for level, part in parts_of(self.network.encoder, self.network.decoder):
            for module in part.modules():
                if isinstance(module, nn.GroupNorm):
                    share(module, next(numbers), self.statistics, partial(self.canvas.cores, level))
                elif isinstance(module, ImplicitUpsampler):
                    module.__class__ = PlacedUpsampler
                    module.canvas, module.level = self.canvas, level  # type: ignore[assignment]

    def look_at(self, tiles: Sequence[Tile]) -> None:
        self.canvas.tiles = tiles

    def condition(self, scale: float) -> Condition:
        lr_feature = torch.cat([self.lr_feature(tile) for tile in self.canvas.tiles])
        return Condition(
            lr_feature,
            *self.network.conditioning(
                lr_feature, lr_feature.new_full((len(lr_feature), 1), scale, dtype=torch.float32)
            ),
        )

    def lr_feature(self, tile: Tile) -> Tensor:
        """(1, 3, H, W) of a window."""
        encoder, canvas = self.network.lr_encoder, self.canvas
        if encoder.sub_pixel > 1:
            return self.enlarged.window(tile)
        known = canvas.lr_window(tile, margin=2 * len(encoder.blocks) + 2)  # all that its convolutions see
        h = encoder.features(crop(self.lr_image, known))
        for axis in (0, 1):
            nearest = nearest_lr_pixels(canvas.lr_size[axis], canvas.size[axis])[tile[axis].window] - known[axis].start
            h = h.index_select(axis + 2, nearest.to(h.device))
        return encoder.tail(h.contiguous(memory_format=torch.channels_last))

    def encode(self, x_t: Tensor, noise_level: Tensor, condition: Condition) -> EncoderState:
        self.statistics.call = 0
        return self.network.encode(x_t, noise_level, condition)

    def decode(self, state: EncoderState, noise_level: Tensor, condition: Condition) -> Tensor:
        """noise_level (K, B) -> (K, B, 3, H, W): one step after the other, as each has its statistics."""
        predictions = []
        for level in noise_level:
            self.statistics.call += 1
            predictions.append(self.network.decode(state, level, condition))
        return torch.stack(predictions)


def parts_of(encoder: UNetEncoder, decoder: UNetDecoder) -> Iterator[tuple[int, nn.Module]]:
    """(level of its result, part) of all that has norms or upsamples."""
    lowest = len(encoder.levels) - 1
    yield from enumerate(encoder.levels)
    yield from ((lowest, part) for part in (encoder.mid1, encoder.mid2))
    yield from ((lowest - n, part) for n, part in enumerate(decoder.levels))
    yield from ((lowest - 1 - n, part) for n, part in enumerate(decoder.upsamplers))
    yield 0, decoder.norm


def share(norm: nn.GroupNorm, number: int, statistics: Statistics, cores: Callable[[], Cores]) -> None:
    """Makes a norm, in place, one of the whole image."""
    norm.__class__ = SharedGroupNormSiLU if isinstance(norm, GroupNormSiLU) else SharedGroupNorm
    norm.number, norm.statistics, norm.cores = number, statistics, cores  # type: ignore[assignment]


def nearest_lr_pixels(lr_length: int, length: int) -> Tensor:
    """The LR pixel of each pixel of a line, as `F.interpolate` takes it."""
    line = torch.arange(lr_length, dtype=torch.float32)
    return F.interpolate(line[None, None], size=length, mode="nearest")[0, 0].long()
