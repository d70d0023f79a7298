"""Pictures side by side, and numbers as a picture."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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


def labelled(images: Sequence[Image.Image], labels: Sequence[str]) -> Image.Image:
    """RGB images in a row, each under its label, which is as large as suits them and is never cut."""
    font = font_of(min(max(min(image.height for image in images) // 20, 10), 40))
    boxes = [font.getbbox(label) for label in labels]
    widths = [max(image.width, math.ceil(box[2])) for image, box in zip(images, boxes, strict=True)]
    top = math.ceil(max(box[3] for box in boxes)) + 2 * GAP
    size = sum(widths) + GAP * (len(images) - 1), top + max(image.height for image in images)
    canvas, x = Image.new("RGB", size, "white"), 0
    draw = ImageDraw.Draw(canvas)
    for image, label, width in zip(images, labels, widths, strict=True):
        draw.text((x, GAP), label, fill="black", font=font)
        canvas.paste(image, (x, top))
        x += width + GAP
    return canvas


def font_of(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font, of this height in pixels where Pillow can scale it."""
    try:
        return ImageFont.load_default(size)
    except ImportError:  # without FreeType
        return ImageFont.load_default()


def coloured(values: np.ndarray, stops: np.ndarray, largest: float = 1.0) -> np.ndarray:
    """Numbers from 0 to `largest`, of any shape -> their colours, uint8 (..., 3), between stops (N, 3) at even
    distances."""
    places = np.linspace(0, largest, len(stops))
    channels = [np.interp(values, places, channel) for channel in stops.T]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def heat_map(matrix: np.ndarray) -> Image.Image:
    """A square array of numbers ≥ 0 as a grey picture of some 400 pixels: 0 is black, the largest white. It shows their
    roots, so that small ones are seen."""
    shades = np.sqrt(matrix / max(matrix.max(), np.finfo(np.float32).tiny))
    side = len(matrix) * max(400 // len(matrix), 1)
    return Image.fromarray(np.rint(255 * shades).astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
