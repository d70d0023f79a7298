"""Pictures side by side, and numbers as a picture."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

GAP = 4  # pixels between pictures
HEADER = 16  # pixels of a line of labels


def grid(rows: Sequence[Sequence[Image.Image]], labels: Sequence[str] = ()) -> Image.Image:
    """Rows of PIL images as one RGB picture, each in a cell of the largest's size; `labels` stand above the columns."""
    width = max(image.width for row in rows for image in row) + GAP
    height = max(image.height for row in rows for image in row) + GAP
    top = HEADER if labels else 0
    canvas = Image.new("RGB", (max(map(len, rows)) * width - GAP, top + len(rows) * height - GAP), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            canvas.paste(image, (x * width, top + y * height))
    draw = ImageDraw.Draw(canvas)
    for x, label in enumerate(labels):
        draw.text((x * width + 2, 2), label, fill="black")
    return canvas


def comparison(rows: Iterable[Sequence[Image.Image]]) -> Image.Image:
    """Rows of (LR, bicubic, SR, HR) as one labelled picture; LR images are magnified so that their pixels show."""
    shown = [(lr.resize(hr.size, Image.Resampling.NEAREST), bicubic, sr, hr) for lr, bicubic, sr, hr in rows]
    return grid(shown, labels=("LR", "bicubic", "SR", "HR"))


def heat_map(matrix: np.ndarray) -> Image.Image:
    """A square array of numbers ≥ 0 as a grey picture of some 400 pixels: 0 is black, the largest white. It shows their
    roots, so that small ones are seen."""
    shades = np.sqrt(matrix / max(matrix.max(), np.finfo(np.float32).tiny))
    side = len(matrix) * max(400 // len(matrix), 1)
    return Image.fromarray(np.rint(255 * shades).astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
