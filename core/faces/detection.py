"""Finds the faces in a photograph, and how FFHQ would cut them out.

A cascade slides windows over the photograph, and by itself takes much for faces that is none. What it proposes is
therefore looked at again, as it is, mirrored and turned, and again around the place where most of these views see it: a
face is what they go on to see.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from core.faces.cascades import Box, Cascade, lbp

SMALLEST, LARGEST = 16, 64  # pixels of a face's side, as FFHQ cuts it; what `faces` was trained on
TOLERANCE = 1.08  # of the side that is measured

VIEW_BOX = 32  # pixels of a box that is looked at again, in a view of twice its side
TURNS = (0, -8, 8)  # degrees
LOOKS = 3
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


def find_faces(photo: Image.Image, cascade: Cascade | None = None) -> list[Face]:
    """The upright frontal faces of 16 to 64 pixels in an RGB image, each once, the surest first.

    cascade: one of `core.faces.cascades`; None: that of scikit-image.
    """
    grey, cascade = photo.convert("F"), cascade or lbp()
    seen = (confirm(grey, box, cascade) for box in proposals(grey, cascade) if may_be_face(photo, box))
    ranked = sorted((pair for pair in seen if pair is not None), key=lambda pair: -pair[1])
    faces = distinct(face_around(box, cascade) for box, _ in ranked)
    return [face for face in faces if SMALLEST / TOLERANCE <= face.side <= LARGEST * TOLERANCE]


def face_around(box: Box, cascade: Cascade) -> Face:
    side = box.side / cascade.box_side
    return Face(box.x - cascade.box_centre[0] * side, box.y - cascade.box_centre[1] * side, side)


def proposals(grey: Image.Image, cascade: Cascade) -> Iterator[Box]:
    """Where the cascade may see a face, at every size; much of it is none."""
    least, most = cascade.sides
    for factor in cascade.enlargements:
        width, height = (round(side * factor) for side in grey.size)
        pixels = np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC))
        largest = min(most, width, height)
        if largest >= least:
            for box in cascade.windows(pixels, (least, largest), True):
                yield Box(*(value / factor for value in box))


def may_be_face(photo: Image.Image, box: Box) -> bool:
    """Whether the pixels in a box could be those of skin with eyes and a mouth."""
    half = box.side / 2
    corners = box.x - half, box.y - half, box.x + half, box.y + half
    pixels = np.asarray(photo.crop(tuple(map(round, corners))), np.float32)  # type: ignore[arg-type]
    red, green, blue = pixels.mean((0, 1))
    is_skin = RED_TO_GREEN[0] * green <= red <= RED_TO_GREEN[1] * green and green >= GREEN_TO_BLUE * blue
    return bool(is_skin and pixels.mean(2).std() >= CONTRAST)


def confirm(grey: Image.Image, box: Box, cascade: Cascade) -> tuple[Box, float] | None:
    """Looks again, each time from where the face was seen before -> (where it is, how many windows agree on it in the
    mean of all looks), or None where they are too few."""
    votes = []
    for _ in range(LOOKS):
        seen = look_again(grey, box, cascade)
        if seen is None or seen[1] < cascade.fewest:
            return None
        box = seen[0]
        votes.append(seen[1])
    mean = sum(votes) / LOOKS
    return (box, mean) if mean >= cascade.votes else None


def look_again(grey: Image.Image, box: Box, cascade: Cascade) -> tuple[Box, int] | None:
    """-> (the box, as all views place it, how many windows agree on it), or None where there is next to nothing."""
    side = 2 * VIEW_BOX
    left, top = box.x - box.side, box.y - box.side
    corners = left, top, left + 2 * box.side, top + 2 * box.side
    upright = grey.transform((side, side), Image.Transform.EXTENT, corners, Image.Resampling.BICUBIC)
    found: list[Box] = []
    sides = round(0.7 * VIEW_BOX), round(1.4 * VIEW_BOX)
    for turn in TURNS:
        view = np.asarray(upright.rotate(turn, Image.Resampling.BICUBIC))
        mirrored = np.ascontiguousarray(view[:, ::-1])
        found += cascade.windows(view, sides, False)
        found += (Box(side - x, y, size) for x, y, size in cascade.windows(mirrored, sides, False))
        if len(found) < cascade.fewest / len(TURNS):
            return None
    every = np.array(found)
    middle = np.median(every, axis=0)
    agree = every[(np.abs(every - middle) < 0.25 * middle[2]).all(1)]
    if not len(agree):
        return None
    x, y, size = (float(value) * 2 * box.side / side for value in agree.mean(0))
    return Box(left + x, top + y, size), len(agree)


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
