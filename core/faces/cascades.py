"""Cascades, which see faces in windows of grey levels: that of scikit-image, and one of OpenCV that finds more.

Both are for upright frontal faces. By itself, either takes much foliage and many flat areas for faces.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.errors import UserError
from data.paths import is_file
from requirements import require_packages

OPENCV_FILE = "haarcascade_frontalface_alt2.xml"
REQUIREMENTS = "requirements-faces.txt"


class Box(NamedTuple):
    """A square in which a cascade sees a face: eyes, nose and mouth."""

    x: float  # of its centre
    y: float
    side: float


# windows(grey levels (H, W), (least, most) side, grouped): those in which the cascade sees a face; grouped: one for
# those that overlap.
Windows = Callable[[np.ndarray, tuple[int, int], bool], Iterator[Box]]


class Cascade(NamedTuple):
    """What sees faces, and how it is asked."""

    windows: Windows
    sides: tuple[int, int]  # of the windows in a photograph; the cascade was trained on the first
    enlargements: tuple[float, ...]  # of the photograph, so that boxes of all sizes are seen
    votes: int  # windows that see a face, in all views of a look: at least, in the mean of all looks
    fewest: int  # of one look
    # How the box lies in the square that FFHQ cuts: measured on faces of FFHQ pasted into photographs, 16 to 64 pixels.
    box_side: float
    box_centre: tuple[float, float]  # from the left and the top


@functools.cache
def lbp() -> Cascade:
    """Local binary patterns (Liao et al., 2007), as scikit-image ships them."""
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade as Detector

    detector = Detector(lbp_frontal_face_cascade_filename())

    def windows(pixels: np.ndarray, sides: tuple[int, int], grouped: bool) -> Iterator[Box]:
        found = detector.detect_multi_scale(
            img=pixels,
            scale_factor=1.1 if grouped else 1.07,
            step_ratio=1.5 if grouped else 1,
            min_size=(sides[0], sides[0]),
            max_size=(sides[1], sides[1]),
            min_neighbor_number=1,
            intersection_score_threshold=0.5 if grouped else 0.999,
        )
        for window in found:
            half = window["width"] / 2
            yield Box(window["c"] + half, window["r"] + half, window["width"])

    return Cascade(windows, (24, 50), (2.5, 1.25, 0.625), 20, 12, 0.655, (0.5, 0.57))


@functools.cache
def opencv() -> Cascade:
    """Haar-like features (Viola and Jones, 2001; Lienhart et al., 2003), as OpenCV 4 ships them. Raises UserError."""
    require_packages(["cv2"], REQUIREMENTS)
    import cv2

    file = Path(cv2.data.haarcascades) / OPENCV_FILE
    if not is_file(file):
        raise UserError(f"OpenCV {cv2.__version__} brings no {OPENCV_FILE}: pip install -r {REQUIREMENTS}")
    detector = cv2.CascadeClassifier(str(file))

    def windows(pixels: np.ndarray, sides: tuple[int, int], grouped: bool) -> Iterator[Box]:
        levels = pixels.clip(0, 255).round().astype(np.uint8)
        least, most = ((side, side) for side in sides)
        found = detector.detectMultiScale(
            levels, scaleFactor=1.05, minNeighbors=int(grouped), minSize=least, maxSize=most
        )
        for x, y, side, _ in sorted(tuple(map(int, window)) for window in found):  # its threads find them in any order
            yield Box(x + side / 2, y + side / 2, side)

    return Cascade(windows, (20, 100), (2,), 30, 18, 0.68, (0.5, 0.547))


CASCADES = {"lbp": lbp, "opencv": opencv}
