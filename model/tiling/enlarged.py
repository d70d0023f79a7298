"""What a sub-pixel LR encoder makes of a whole LR image, whose features are too many to be in memory at once."""

import torch
from torch import Tensor

from model.blocks import ceil_div
from model.conditioning import LREncoder
from model.tiling.plan import Tile, crop
from model.tiling.resampling import resample_window

STRIP_PIXELS = 512 * 1024  # of LR, that the encoder sees at once, beside what its convolutions see above and below


class EnlargedImage:
    """The LR image n times as large, n the encoder's `sub_pixel`, strip by strip as its rows are asked for.

    It stays on the CPU, 12·n² bytes an LR pixel.
    """

    def __init__(self, encoder: LREncoder, lr_image: Tensor, size: tuple[int, int]) -> None:
        self.encoder, self.lr_image = encoder, lr_image  # (1, 3, h, w)
        height, width = lr_image.shape[2:]
        self.times = encoder.sub_pixel
        self.own_size = self.times * height, self.times * width
        self.size = size  # (H, W) of the result
        self.strip_rows = max(STRIP_PIXELS // width, 1)
        self.strips: dict[int, Tensor] = {}

    def window(self, tile: Tile) -> Tensor:
        """(1, 3, H, W) of a tile's window, as `LREncoder.forward` has it in the whole result."""
        wanted = tile.rows.window, tile.columns.window
        if self.size == self.own_size:
            return self.known(wanted)
        known = self.seen_from(wanted[0], 0), self.seen_from(wanted[1], 1)
        return resample_window(self.known(known).float(), known, wanted, (self.own_size, self.size))

    def seen_from(self, wanted: slice, axis: int) -> slice:
        """The pixels that the cubic kernel reads for those of the result, along an axis."""
        source, target = self.own_size[axis], self.size[axis]
        reach = 2 * ceil_div(source, target) + 1
        start, stop = wanted.start * source // target, ceil_div(wanted.stop * source, target)
        return slice(max(start - reach, 0), min(stop + reach, source))

    def known(self, part: tuple[slice, slice]) -> Tensor:
        """Pixels (1, 3, H, W) of the enlarged image, on the device."""
        high = self.times * self.strip_rows
        numbers = range(part[0].start // high, ceil_div(part[0].stop, high))
        rows = torch.cat([self.strip(n) for n in numbers], dim=2)
        first = numbers.start * high
        image = crop(rows, (slice(part[0].start - first, part[0].stop - first), part[1]))
        return image.to(self.lr_image.device).contiguous(memory_format=torch.channels_last)

    def strip(self, n: int) -> Tensor:
        """(1, 3, H, W) of all columns."""
        if n not in self.strips:
            start, margin = n * self.strip_rows, 2 * len(self.encoder.blocks) + 3  # what convolutions see
            above = min(start, margin)
            around = self.lr_image[:, :, start - above : start + self.strip_rows + margin]
            rows = self.encoder.enlarged(around.contiguous(memory_format=torch.channels_last))
            first = self.times * above
            self.strips[n] = rows[:, :, first : first + self.times * self.strip_rows].cpu()
        return self.strips[n]
