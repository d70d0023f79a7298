"""Numbers as shades: a square of them in grey, or rows in groups that have a name, in colour with a colour bar."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor

from core.plot import FINE, INK, PALE, Canvas, round_step

SCALE = ("#fdf6e3", "#fbd08a", "#f19a57", "#d95b5b", "#a3307a", "#5c1a7a", "#1a0f3c")  # darker and darker, to all eyes
WIDTH, HEIGHT = 620, 720  # pixels of the cells; they are higher where groups are many
LEAST, MOST = 18, 14  # pixels of a group at least, as its name stands beside it, and of a row at most
GAP = 4  # pixels between groups
TOP, BOTTOM, EDGE = 74, 64, 20  # pixels around the cells and all that is beside them
BAR = {"width": 16, "height": 320, "text": 44}  # pixels of the colour bar and of its numbers
LABELS = 8  # columns at most that are named


class Group(NamedTuple):
    """Rows of numbers ≥ 0, one or more."""

    name: str
    rows: np.ndarray  # (rows, columns)
    note: str = ""  # at the right


def heat_map(matrix):
    """A square array of numbers ≥ 0 as a grey picture of some 400 pixels: 0 is black, the largest white. It shows their
    roots, so that small ones are seen."""
    shades = np.sqrt(matrix / max(matrix.max(), np.finfo(np.float32).tiny))
    side = len(matrix) * max(400 // len(matrix), 1)
    return Image.fromarray(np.uint8(np.rint(255 * shades))).resize((side, side), Image.Resampling.NEAREST)


def grouped_heat_map(groups, columns, title="", x_label="", label="", notes=""):
    """Groups from the top down as one RGB picture; `columns` are their names, `notes` stands above the groups' notes.

    The darker, the larger: colours follow the root, so that small numbers differ too. `label` says at the colour bar
    what they are.
    """
    most = float(max(group.rows.max() for group in groups)) or 1.0
    heights = heights_of([len(group.rows) for group in groups])
    bottom = TOP + sum(heights) + GAP * (len(heights) - 1)
    left = EDGE + max(Canvas.length(group.name) for group in groups) + 10
    right = left + WIDTH + 10
    bar = right + max(Canvas.length(text) for text in (notes, *(group.note for group in groups))) + 24
    canvas = Canvas((math.ceil(bar + BAR["width"] + BAR["text"] + EDGE), max(bottom, TOP + BAR["height"]) + BOTTOM))
    canvas.text((EDGE, 30), title, "ls", size=17)
    canvas.text((right, TOP - 10), notes, "ls", PALE)
    top = TOP
    for group, height in zip(groups, heights, strict=True):
        canvas.paste(cells(group.rows, most, (WIDTH, height)), (left, top))
        canvas.text((left - 10, top + height / 2), group.name, "rm")
        canvas.text((right, top + height / 2), group.note, "lm", PALE)
        top += height + GAP
    draw_columns(canvas, columns, x_label, left, bottom)
    draw_bar(canvas, bar, most, label)
    return canvas.picture()


def heights_of(rows):
    """Pixels of groups of so many rows."""
    height = min(HEIGHT / sum(rows), MOST)
    return [max(round(n * height), LEAST) for n in rows]


def cells(rows, most, size):
    """Numbers as a picture, FINE times as large as `size` (width, height); where rows or columns are more than pixels,
    each pixel is a mean."""
    picture = Image.fromarray(colours(np.sqrt(rows / most)))
    return picture.resize((FINE * size[0], FINE * size[1]), Image.Resampling.BOX)


def colours(shades):
    """Numbers in [0, 1], of any shape, as RGB uint8."""
    stops = np.array([ImageColor.getrgb(colour) for colour in SCALE], dtype=float)
    at = np.linspace(0, 1, len(stops))
    return np.uint8(np.rint(np.stack([np.interp(shades, at, channel) for channel in stops.T], axis=-1)))


def draw_columns(canvas, columns, x_label, left, bottom):
    """The names of some columns below them, the last of every so many."""
    every = max(round(round_step(len(columns) / LABELS)), 1)
    for n in range(every - 1, len(columns), every):
        at = left + (n + 0.5) * WIDTH / len(columns)
        canvas.line([(at, bottom + 2), (at, bottom + 6)], INK, 1)
        canvas.text((at, bottom + 10), str(columns[n]), "ma")
    canvas.text((left + WIDTH / 2, bottom + 34), x_label, "ma", size=16)


def draw_bar(canvas, left, most, label):
    """The colours from 0 to the largest number."""
    width, height = BAR["width"], BAR["height"]
    shades = np.linspace(1, 0, FINE * height)[:, None].repeat(FINE * width, axis=1)
    canvas.paste(Image.fromarray(colours(shades)), (left, TOP))
    canvas.text((left, TOP - 10), label, "ls")
    for number in numbers_of_bar(most, height):
        at = TOP + height * (1 - (number / most) ** 0.5)
        canvas.line([(left + width, at), (left + width + 4, at)], INK, 1)
        canvas.text((left + width + 8, at), f"{number:.2g}", "lm")


def numbers_of_bar(most, height):
    """0, the largest number, and between them round ones that have room on a bar so high."""
    numbers, places = [0.0, most], [0.0, height]
    for n in range(math.floor(math.log10(most)), -10, -1):
        for digit in (5, 2, 1):
            place = height * min(digit * 10.0**n / most, 1) ** 0.5
            if all(abs(place - other) >= LEAST for other in places):
                numbers.append(digit * 10.0**n)
                places.append(place)
    return sorted(numbers)
