"""Numbers as colours: what became of each layer over a training."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from PIL import Image, ImageDraw

from core.report.pictures import coloured, font_of

# Viridis (S. van der Walt and N. Smith, CC0) at even distances: as bright as it is large, for the colour-blind too.
VIRIDIS_HEX = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725"
VIRIDIS = np.frombuffer(bytes.fromhex(VIRIDIS_HEX), np.uint8).reshape(-1, 3)
WIDTH, HEIGHT = 640, 720  # pixels of the map, or a little less
LEFT, TOP, RIGHT, BOTTOM = 130, 30, 80, 24  # pixels around it
FONT = 12
TICKS = 4  # parts of the colour bar


def layers_over_time(
    rows: Sequence[Sequence[float]], layers: Sequence[str], steps: Sequence[int], title: str
) -> Image.Image:
    """A heat map of shares ≥ 0: a line for each layer, from top to bottom as in the network, a column for each update.

    rows: for each update, the number of each layer; the colour shows its root, so that small ones are told apart.
    Layers of one part, the first word of their names, stand together under its name.
    """
    values = np.asarray(rows, dtype=np.float64).T  # (layers, updates)
    largest = max(values.max(), np.finfo(np.float32).tiny)
    columns = np.linspace(0, len(steps) - 1, WIDTH).round().astype(int)
    height = max(HEIGHT // len(layers), 1)
    picture = Image.fromarray(coloured(np.sqrt(values / largest)[:, columns], VIRIDIS))
    picture = picture.resize((WIDTH, height * len(layers)), Image.Resampling.NEAREST)

    canvas = Image.new("RGB", (LEFT + WIDTH + RIGHT, TOP + picture.height + BOTTOM), "white")
    canvas.paste(picture, (LEFT, TOP))
    draw, font = ImageDraw.Draw(canvas), font_of(FONT)
    draw.text((LEFT, TOP // 2), title, fill="black", font=font, anchor="lm")
    below = TOP + picture.height + BOTTOM // 2
    draw.text((LEFT, below), f"step {steps[0]:,}", fill="black", font=font, anchor="lm")
    draw.text((LEFT + WIDTH, below), f"step {steps[-1]:,}", fill="black", font=font, anchor="rm")
    for name, first, number in parts_of(layers):
        top, bottom = TOP + first * height, TOP + (first + number) * height
        draw.line([(LEFT - 6, top), (LEFT + WIDTH, top)], fill="white")
        if bottom - top >= FONT:
            draw.text((LEFT - 8, (top + bottom) / 2), name, fill="black", font=font, anchor="rm")
    add_scale(canvas, draw, largest)
    return canvas


def parts_of(layers: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """(name, its first layer, how many) of each part of a network."""
    first = 0
    for name, group in groupby(layers, key=lambda layer: layer.partition(".")[0]):
        number = len(list(group))
        yield name.replace("_", " "), first, number
        first += number


def add_scale(canvas: Image.Image, draw: ImageDraw.ImageDraw, largest: float) -> None:
    """The colour bar, at the right."""
    left, height = LEFT + WIDTH + 12, canvas.height - TOP - BOTTOM
    shades = np.linspace(1, 0, height)[:, None].repeat(12, axis=1)
    canvas.paste(Image.fromarray(coloured(shades, VIRIDIS)), (left, TOP))
    for n in range(TICKS + 1):
        share = n / TICKS
        y = TOP + (1 - share) * (height - 1)
        draw.text((left + 18, y), f"{share**2 * largest:.1%}", fill="black", font=font_of(FONT), anchor="lm")
