"""Cuts a face out of a photograph, and blends a larger one into the larger photograph."""

from typing import NamedTuple

import numpy as np
from PIL import Image
from skimage.filters import gaussian

from core.faces.detection import Face

LOW = 1.5  # pixels of the photograph, σ: what is coarser has the colours of the larger photograph
CENTRE = (0.5, 0.53)  # of the ellipse that is blended in, in the square of a face
RADII = (0.44, 0.47)
FEATHER = 0.4  # of its radius, from its border inwards


class Region(NamedTuple):
    """The pixels of a larger photograph that a face is to fill; they may reach beyond the border."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def of(cls, face: Face, photo: Image.Image, larger: Image.Image) -> "Region":
        across, down = magnifications(photo, larger)
        left, top = round(face.left * across), round(face.top * down)
        return cls(left, top, left + max(round(face.side * across), 1), top + max(round(face.side * down), 1))

    @property
    def size(self) -> tuple[int, int]:
        return self.right - self.left, self.bottom - self.top


def magnifications(photo: Image.Image, larger: Image.Image) -> tuple[float, float]:
    return larger.width / photo.width, larger.height / photo.height


def cut(photo: Image.Image, larger: Image.Image, region: Region, side: int) -> Image.Image:
    """What the photograph shows of a region of the larger one, as (side, side) pixels, mirrored beyond the border."""
    across, down = magnifications(photo, larger)
    box = region.left / across, region.top / down, region.right / across, region.bottom / down
    margin = int(np.ceil(max(0, -min(box), box[2] - photo.width, box[3] - photo.height)))
    if margin:
        photo = Image.fromarray(np.pad(np.asarray(photo), ((margin, margin), (margin, margin), (0, 0)), "symmetric"))
    left, top, right, bottom = (value + margin for value in box)
    return photo.resize((side, side), Image.Resampling.BICUBIC, (left, top, right, bottom))


def blend(larger: Image.Image, face: Image.Image, region: Region, magnification: float) -> None:
    """Puts a face of the region's size into the larger photograph: an ellipse with a soft border, in its colours."""
    inside = Region(max(region.left, 0), max(region.top, 0), *map(min, region[2:], larger.size))
    rows = slice(inside.top - region.top, inside.bottom - region.top)
    columns = slice(inside.left - region.left, inside.right - region.left)
    before = np.asarray(larger.crop(inside), np.float32)
    after = matched(np.asarray(face, np.float32)[rows, columns], before, LOW * magnification)
    weight = ellipse(*region.size)[rows, columns, None]
    levels = (before + weight * (after - before)).clip(0, 255).round().astype(np.uint8)
    larger.paste(Image.fromarray(levels), inside[:2])


def matched(face: np.ndarray, photo: np.ndarray, sigma: float) -> np.ndarray:
    """The face with the colours and the light of the photograph: (H, W, 3), low frequencies of the second."""
    return face + gaussian(photo - face, sigma, mode="nearest", channel_axis=2)


def ellipse(width: int, height: int) -> np.ndarray:
    """(H, W) in [0, 1]: 1 in the middle of a face, falling smoothly to 0 at the border of the ellipse."""
    x = ((np.arange(width) + 0.5) / width - CENTRE[0]) / RADII[0]
    y = ((np.arange(height) + 0.5) / height - CENTRE[1]) / RADII[1]
    ramp = ((1 - np.hypot(x, y[:, None])) / FEATHER).clip(0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
