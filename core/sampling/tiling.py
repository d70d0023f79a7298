"""When an image is made tile by tile, and how large the tiles are, so that memory is bounded."""

from math import isqrt
from typing import NamedTuple

import torch

from core.config.sections import SampleSection
from core.errors import UserError
from model import Network
from model.tiling import attends, has_norms

OVERLAP, OVERLAP_WITHOUT_NORMS = 32, 64  # pixels; docs/performance.md measures them
AT_ONCE_CPU, AT_ONCE_GPU = 768**2, 2 * 1024**2  # pixels of the windows computed at once: what fills the device
AT_ONCE_CPU_WITHOUT_NORMS = 1152**2  # the same memory
LARGEST = 1152**2  # pixels of one window: nothing is gained by more
FEWEST = 128**2  # the same, where memory is short
WHOLE_CPU = 1024**2  # pixels of an image that is made at once
BYTES = 3000  # of a GPU's memory a pixel, generously, where an image is made at once


class Tiles(NamedTuple):
    """How an image is cut into tiles, as `model.tiling.sample_tiled` takes it."""

    tile: int  # side, in pixels of the result
    overlap: int
    most_pixels: int  # of windows at once


def tiles_for(
    network: Network,
    size: tuple[int, int],  # (H, W) of the result
    settings: SampleSection,
    decoder_calls: int,  # of an image at once
    most_pixels: int | None = None,  # of windows at once, where memory is known to be short
) -> Tiles | None:
    """How to make an image by tiles; None: at once.

    Raises UserError where tiles are asked for and the network attends to whole images.
    """
    is_short, is_auto = most_pixels is not None, settings.tile == "auto"
    fits = size[0] * size[1] * decoder_calls <= pixels_at_once(device_of(network))
    if settings.tile == 0 or (is_auto and fits and not is_short):
        return None  # before norms are looked for: a small image on a GPU takes no more than milliseconds
    usual_overlap = OVERLAP if has_norms(network) else OVERLAP_WITHOUT_NORMS
    overlap = usual_overlap if settings.overlap is None else settings.overlap
    most = most_pixels or usual_pixels(network)
    if is_auto:
        if not is_short and attends(network):
            return None
        return Tiles(tile_in(min(most, LARGEST), overlap), overlap, most)
    assert isinstance(settings.tile, int)
    if not is_short and settings.tile + 2 * overlap >= max(size):
        return None
    if attends(network):
        problem = "this network attends to whole images, of which a tile is a part; leave --tile out"
        raise UserError(f"--tile {settings.tile}: {problem}")
    return Tiles(min(settings.tile, tile_in(most, overlap)) if is_short else settings.tile, overlap, most)


def tile_in(pixels: int, overlap: int) -> int:
    """The side of the largest tile whose window has so many pixels, if not much more than its overlap has."""
    return max(isqrt(pixels) - 2 * overlap, overlap, 1)


def can_be_tiled(network: Network, settings: SampleSection) -> bool:
    return settings.tile != 0 and not attends(network)


def fewer_pixels(network: Network, most_pixels: int | None) -> int | None:
    """Of windows at once, where the whole image, or windows of `most_pixels`, did not fit; None below the fewest."""
    fewer = usual_pixels(network) if most_pixels is None else most_pixels // 2
    return fewer if fewer >= FEWEST else None


def pixels_at_once(device: torch.device) -> int:
    """The pixels of the largest image that is made without tiles, for each decoder call at once."""
    if device.type != "cuda":
        return WHOLE_CPU
    return torch.cuda.get_device_properties(device).total_memory // BYTES


def usual_pixels(network: Network) -> int:
    """Of windows at once."""
    if device_of(network).type != "cpu":
        return AT_ONCE_GPU
    return AT_ONCE_CPU if has_norms(network) else AT_ONCE_CPU_WITHOUT_NORMS


def device_of(network: Network) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
