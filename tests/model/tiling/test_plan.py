"""Tiles share an image out, and what they see beyond is enough."""

import itertools

import pytest
import torch

from model.tiling.plan import batches_of_tiles, plan_spans, plan_tiles


@pytest.mark.parametrize("length", [1, 7, 100, 101, 256, 257, 999, 2047, 8192])
@pytest.mark.parametrize(
    ("tile", "overlap", "multiple"), [(256, 32, 8), (100, 0, 8), (64, 65, 16), (5, 3, 8), (1000, 8, 1)]
)
def test_spans(length, tile, overlap, multiple):
    spans = plan_spans(length, tile, overlap, multiple)
    assert [pixel for span in spans for pixel in range(span.core_start, span.core_stop)] == list(range(length))
    for span in spans:
        assert span.start % multiple == span.core_start % multiple == 0
        assert 0 <= span.start <= max(span.core_start - overlap, 0)
        assert min(span.core_stop + overlap, length) <= span.stop <= length
        assert span.core_stop - span.core_start < tile + multiple
    assert len({span.stop - span.start for span in spans if span.stop < length}) <= 1


def test_tiles_cover_every_pixel_once():
    kept = torch.zeros(150, 203)
    for tile in plan_tiles((150, 203), 64, 16, 8):
        window = torch.zeros(tile.shape)
        window[tile.rows.core_in_window, tile.columns.core_in_window] = 1
        kept[tile.rows.window, tile.columns.window] += window
    assert (kept == 1).all()


def test_batches_are_of_one_shape_and_not_too_large():
    tiles = plan_tiles((1000, 1003), 200, 16, 8)
    batches = list(batches_of_tiles(tiles, 3 * 240**2))
    assert sorted(itertools.chain(*batches)) == sorted(tiles)
    for batch in batches:
        assert len({tile.shape for tile in batch}) == 1
        assert len(batch) == 1 or sum(h * w for h, w in (tile.shape for tile in batch)) <= 3 * 240**2
    assert max(map(len, batches)) == 3
    assert all(len(batch) == 1 for batch in batches_of_tiles(tiles, 0))
