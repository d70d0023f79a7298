"""Random changes to whole images, so that a few of them teach as much as many: turns, another place, size and tone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image

QUARTER_TURNS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """How far what an image shows may be moved, made larger, turned and tinted; with its defaults, not at all."""

    shift: float = 0.0  # most, along each side, as a share of it
    scale: tuple[float, float] = (1.0, 1.0)  # range of the magnification
    rotate: float = 0.0  # most, degrees, either way
    tone: float = 0.0  # most, of gamma, as a fraction; each colour changes by up to half of it


def draw_jitter(how: Jitter, rng: Random) -> tuple[tuple[float, float], float, float]:
    """(shift, scale, angle), as `place` takes them."""
    shift = rng.uniform(-how.shift, how.shift), rng.uniform(-how.shift, how.shift)
    return shift, rng.uniform(*how.scale), rng.uniform(-how.rotate, how.rotate)


def place(image: Image.Image, shift: tuple[float, float], scale: float, angle: float) -> Image.Image:
    """An image of the same size whose content is turned about the centre, magnified, and then moved.

    shift: to the right and down, as shares of the width and the height;  scale: above 1 magnifies;  angle: degrees,
    counter-clockwise. Bicubic, antialiased where it gets smaller; beyond its border the image is reflected.
    """
    width, height = image.size
    box_width, box_height = width / scale, height / scale  # of the part that will fill the image
    reach = math.hypot((0.5 + abs(shift[0])) * box_width, (0.5 + abs(shift[1])) * box_height)
    margin = max(math.ceil(reach - min(width, height) / 2), 0) + 2
    wide = Image.fromarray(np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), "reflect"))
    if angle:
        wide = wide.rotate(angle, Image.Resampling.BICUBIC)
    left = margin + width / 2 - (0.5 + shift[0]) * box_width
    top = margin + height / 2 - (0.5 + shift[1]) * box_height
    box = (left, top, left + box_width, top + box_height)
    return wide.resize((width, height), Image.Resampling.BICUBIC, box=box)


def draw_tone(most: float, rng: Random) -> tuple[float, list[float]]:
    """(gamma, gains), as `tinted` takes them."""
    return 1 + rng.uniform(-most, most), [1 + rng.uniform(-most, most) / 2 for _ in range(3)]


def tinted(image: Image.Image, gamma: float, gains: Sequence[float]) -> Image.Image:
    """An RGB image in other tones: each channel v in [0, 1] becomes its gain times v^gamma, at most 1."""
    levels = (np.asarray(image, np.float32) / 255) ** gamma * np.asarray(gains, np.float32)
    return Image.fromarray((levels.clip(0, 1) * 255).round().astype(np.uint8))


def turn(image: Image.Image, quarters: int) -> Image.Image:
    """Turned counter-clockwise by so many right angles, 0 to 3."""
    method = QUARTER_TURNS[quarters]
    return image if method is None else image.transpose(method)
