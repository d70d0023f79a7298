"""How an image is cut into tiles, and how these are put together in batches."""

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from torch import Tensor

from model.blocks import ceil_div

Slices = tuple[slice, slice]  # rows and columns


class Span(NamedTuple):
    """A tile along one axis, in pixels of the result: the window that is computed, and its core, which is kept."""

    start: int
    stop: int
    core_start: int
    core_stop: int

    @property
    def window(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def core(self) -> slice:
        return slice(self.core_start, self.core_stop)

    @property
    def core_in_window(self) -> slice:
        return slice(self.core_start - self.start, self.core_stop - self.start)


class Tile(NamedTuple):
    rows: Span
    columns: Span

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the window."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def crop(images: Tensor, part: Slices) -> Tensor:
    """(..., H, W) -> (..., h, w)."""
    return images[..., part[0], part[1]]


def plan_tiles(size: Sequence[int], tile: int, overlap: int, multiple: int) -> list[Tile]:
    """Tiles of an image of `size` (H, W), row by row. Their cores, of about `tile` pixels a side, share the image out;
    a window goes on for `overlap` pixels or more on each side where the image does.

    Windows begin, and cores begin and end, at multiples of `multiple`, so that a network's levels of down to that
    stride have the pixels there that they have in the whole image.
    """
    rows, columns = (plan_spans(length, tile, overlap, multiple) for length in size)
    return [Tile(row, column) for row in rows for column in columns]


def plan_spans(length: int, tile: int, overlap: int, multiple: int) -> list[Span]:
    """All windows are equally long, but the last, which the image may end by less than a multiple later."""
    count, overlap = ceil_div(length, tile), ceil_div(overlap, multiple) * multiple
    bounds = [length * n // count // multiple * multiple for n in range(count)] + [length]
    cores = [(start, stop) for start, stop in pairwise(bounds) if start < stop]
    longest = max(stop - start for start, stop in cores) + 2 * overlap
    window = ceil_div(longest, multiple) * multiple
    last = max(length - window, 0) // multiple * multiple
    spans = []
    for core_start, core_stop in cores:
        start = min(max(core_start - overlap, 0) // multiple * multiple, last)
        stop = length if start == last else start + window
        spans.append(Span(start, stop, core_start, core_stop))
    return spans


def batches_of_tiles(tiles: Sequence[Tile], most_pixels: int) -> Iterator[list[Tile]]:
    """The tiles in batches of one shape, of at most so many pixels in all, or of one tile."""
    for shape, alike in groupby(sorted(tiles, key=lambda tile: tile.shape), key=lambda tile: tile.shape):
        some = list(alike)
        count = max(most_pixels // (shape[0] * shape[1]), 1)
        yield from (some[start : start + count] for start in range(0, len(some), count))
