"""Finds the faces in a photograph, and how FFHQ would cut them out.

The detector is the cascade of local binary patterns that scikit-image ships, for upright frontal faces (Liao et al.,
2007). It slides windows over the photograph, and by itself takes much foliage and many flat areas for faces. What it
proposes is therefore looked at again, as it is, mirrored and turned, and again around the place where most of these
views see it: a face is what they go on to see.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image
from skimage.data import lbp_frontal_face_cascade_filename
from skimage.feature import Cascade

SMALLEST, LARGEST = 16, 64  # pixels of a face's side, as FFHQ cuts it; what `faces` was trained on
TOLERANCE = 1.08  # of the side that is measured

# How the cascade's box lies in FFHQ's: measured on 76 faces of FFHQ pasted into photographs, 16 to 64 pixels.
BOX_SIDE = 0.655  # ± 0.05
BOX_CENTRE = (0.5, 0.57)  # ± 0.02, from the left and the top

WINDOWS = (24, 50)  # pixels of the cascade's windows; it was trained on the first
ENLARGEMENTS = (2.5, 1.25, 0.625)  # of the photograph: boxes of 9.6 to 80 pixels
VIEW_BOX = 32  # pixels of a box that is looked at again, in a view of twice its side
TURNS = (0, -8, 8)  # degrees
LOOKS = 3
VOTES = 20  # windows that see a face, in all views of a look: at least, in the mean of all looks
FEWEST = 12  # of one look
CONTRAST = 12  # least standard deviation of the levels of a face, of 255: flat areas have patterns too
RED_TO_GREEN = (0.95, 1.9)  # of the means over a face: 1.1 to 1.75 in 198 of 200 faces, 1 in grey images
GREEN_TO_BLUE = 0.88  # at least: 0.94 in 198 of 200 faces


class Face(NamedTuple):
    """The square that FFHQ would cut out, in pixels of the photograph; it may reach beyond the border."""

    left: float
    top: float
    side: float

    @property
    def centre(self) -> tuple[float, float]:
        return self.left + self.side / 2, self.top + self.side / 2


class Box(NamedTuple):
    """A square in which the cascade sees a face: eyes, nose and mouth."""

    x: float  # of its centre
    y: float
    side: float

    def to_face(self) -> Face:
        side = self.side / BOX_SIDE
        return Face(self.x - BOX_CENTRE[0] * side, self.y - BOX_CENTRE[1] * side, side)


def find_faces(photo: Image.Image) -> list[Face]:
    """The upright frontal faces of 16 to 64 pixels in an RGB image, each once, the surest first."""
    grey = photo.convert("F")
    seen = (confirm(grey, box) for box in proposals(grey) if may_be_face(photo, box))
    ranked = sorted((pair for pair in seen if pair is not None), key=lambda pair: -pair[1])
    faces = distinct(box.to_face() for box, _ in ranked)
    return [face for face in faces if SMALLEST / TOLERANCE <= face.side <= LARGEST * TOLERANCE]


def proposals(grey: Image.Image) -> Iterator[Box]:
    """Where the cascade may see a face, at every size; much of it is none."""
    for factor in ENLARGEMENTS:
        width, height = (round(side * factor) for side in grey.size)
        pixels = np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC))
        largest = min(WINDOWS[1], width, height)
        if largest >= WINDOWS[0]:
            for box in windows(pixels, (WINDOWS[0], largest), step=1.5, growth=1.1, grouped=True):
                yield Box(*(value / factor for value in box))


def may_be_face(photo: Image.Image, box: Box) -> bool:
    """Whether the pixels in a box could be those of skin with eyes and a mouth."""
    half = box.side / 2
    corners = box.x - half, box.y - half, box.x + half, box.y + half
    pixels = np.asarray(photo.crop(tuple(map(round, corners))), np.float32)  # type: ignore[arg-type]
    red, green, blue = pixels.mean((0, 1))
    is_skin = RED_TO_GREEN[0] * green <= red <= RED_TO_GREEN[1] * green and green >= GREEN_TO_BLUE * blue
    return bool(is_skin and pixels.mean(2).std() >= CONTRAST)


def confirm(grey: Image.Image, box: Box) -> tuple[Box, float] | None:
    """Looks again, each time from where the face was seen before -> (where it is, how many windows agree on it in the
    mean of all looks), or None where they are too few."""
    votes = []
    for _ in range(LOOKS):
        seen = look_again(grey, box)
        if seen is None or seen[1] < FEWEST:
            return None
        box = seen[0]
        votes.append(seen[1])
    mean = sum(votes) / LOOKS
    return (box, mean) if mean >= VOTES else None


def look_again(grey: Image.Image, box: Box) -> tuple[Box, int] | None:
    """-> (the box, as all views place it, how many windows agree on it), or None where there is next to nothing."""
    side = 2 * VIEW_BOX
    left, top = box.x - box.side, box.y - box.side
    corners = left, top, left + 2 * box.side, top + 2 * box.side
    upright = grey.transform((side, side), Image.Transform.EXTENT, corners, Image.Resampling.BICUBIC)
    found: list[Box] = []
    for turn in TURNS:
        view = np.asarray(upright.rotate(turn, Image.Resampling.BICUBIC))
        mirrored = np.ascontiguousarray(view[:, ::-1])
        sizes = round(0.7 * VIEW_BOX), round(1.4 * VIEW_BOX)
        found += windows(view, sizes, step=1, growth=1.07)
        found += (Box(side - x, y, size) for x, y, size in windows(mirrored, sizes, step=1, growth=1.07))
        if len(found) < FEWEST / len(TURNS):
            return None
    every = np.array(found)
    middle = np.median(every, axis=0)
    agree = every[(np.abs(every - middle) < 0.25 * middle[2]).all(1)]
    if not len(agree):
        return None
    x, y, size = (float(value) * 2 * box.side / side for value in agree.mean(0))
    return Box(left + x, top + y, size), len(agree)


def windows(
    pixels: np.ndarray, sizes: tuple[int, int], step: float, growth: float, grouped: bool = False
) -> Iterator[Box]:
    """The windows of grey levels (H, W) in which the cascade sees a face; grouped: one for those that overlap."""
    found = cascade().detect_multi_scale(
        img=pixels,
        scale_factor=growth,
        step_ratio=step,
        min_size=(sizes[0], sizes[0]),
        max_size=(sizes[1], sizes[1]),
        min_neighbor_number=1,
        intersection_score_threshold=0.5 if grouped else 0.999,
    )
    for window in found:
        half = window["width"] / 2
        yield Box(window["c"] + half, window["r"] + half, window["width"])


@functools.cache
def cascade() -> Cascade:
    return Cascade(lbp_frontal_face_cascade_filename())


def distinct(faces: Iterable[Face]) -> list[Face]:
    """Without those whose centre lies within an earlier one, or that have the centre of an earlier one within them."""
    kept: list[Face] = []
    for face in faces:
        if not any(overlap(face, other) for other in kept):
            kept.append(face)
    return kept


def overlap(a: Face, b: Face) -> bool:
    reach = max(a.side, b.side) / 2
    return all(abs(p - q) < reach for p, q in zip(a.centre, b.centre, strict=True))
