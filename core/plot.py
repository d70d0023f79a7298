"""Numbers as a picture: points and lines over a linear or a logarithmic x axis, or values in rows, drawn with Pillow
alone."""

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

FINE = 2  # everything is drawn so many times larger, and averaged
MARGIN = {"left": 78, "right": 24, "top": 44, "bottom": 62}  # pixels around the frame
RADIUS = 5  # pixels of a marker
ROW = 22  # pixels from a row to the next
INK, PALE, GRID = "#222222", "#777777", "#e4e4e4"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # told apart by all eyes
MARKERS = ("circle", "square", "triangle", "diamond", "cross")


@dataclass(frozen=True)
class Series:
    """Points (x, y) or (x, y, text beside it) of one colour. Those with a number that is not finite are not drawn."""

    label: str  # in the legend; "": not there
    points: list
    line: bool = False  # whether the points are joined, in their order
    markers: bool = True
    colour: str | None = None  # None: the next of COLOURS
    width: float = 2  # pixels of the line

    @property
    def drawn(self):
        return [point for point in self.points if all(map(math.isfinite, point[:2]))]


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on pixels from `first` to `last`; either may fall in place of rising."""

    low: float
    high: float
    first: float
    last: float
    log: bool = False

    @classmethod
    def around(cls, values, first, last, log=False, falling=False, room=0.06):
        """An axis on which the values leave some room, that share of it, at both ends. A falling one begins with the
        largest."""
        values = list(values) or [1.0, 2.0]
        if log and min(values) <= 0:
            raise ValueError(f"a logarithmic axis has no place for {min(values)}")
        low, high = (math.log10(v) if log else v for v in (min(values), max(values)))
        spare = (high - low) * room / (1 - 2 * room) or (0.1 if log else 0.1 * abs(low) or 1.0)
        low, high = (high + spare, low - spare) if falling else (low - spare, high + spare)
        return cls(10**low, 10**high, first, last, True) if log else cls(low, high, first, last)

    def pixel(self, value):
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.first + (value - low) / (high - low) * (self.last - self.first)

    def ticks(self):
        """Round values on the axis, some four to ten of them where it is linear."""
        low, high = sorted((self.low, self.high))
        if self.log:
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            digits = (1,) if len(decades) > 6 else (1, 2, 5)
            values = [digit * 10.0**n for n in decades for digit in digits]
            inside = [value for value in values if low <= value <= high]
            if len(inside) > 1:
                return inside
        step = round_step((high - low) / 10)
        return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def round_step(least):
    """The smallest of 1, 2 and 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9))


def plot(
    series,  # a list of Series; a later one is drawn over an earlier one
    title="",
    x_label="",
    y_label="",
    log_x=False,
    levels=(),  # (y, text) of dashed lines
    size=(1000, 700),  # width, height
    log_y=False,
    falling_x=False,  # the largest x at the left
):  # an RGB picture on white
    """Points and lines in a frame with axes, and a legend of those that have a label."""
    x, y = axes(series, levels, log_x, size, log_y, falling_x)
    canvas = Canvas(size)
    draw_frame(canvas, x, y, title, x_label, y_label)
    taken = draw_levels(canvas, levels, x, y)
    styles = [(s.colour or COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)]) for n, s in enumerate(series)]
    places = [[(x.pixel(point[0]), y.pixel(point[1])) for point in s.drawn] for s in series]
    for s, (colour, marker), at in zip(series, styles, places, strict=True):
        if s.line and len(at) > 1:
            canvas.line(at, colour, s.width)
        for place in at if s.markers else ():
            canvas.marker(place, marker, colour)
    taken += [around(place, RADIUS) for at in places for place in at]
    taken += draw_legend(canvas, series, styles, x, y, taken)
    draw_texts(canvas, series, styles, places, x, y, taken)
    return canvas.picture()


@dataclass(frozen=True)
class Row:
    """A value with its error, in a row of its own."""

    name: str
    value: float
    error: float = 0.0  # a bar reaches so far to both sides
    group: str = ""  # rows of one group have one colour


def row_plot(rows, title="", x_label="", width=1000):  # an RGB picture on white
    """A row for each finite value: its name, a marker, the error as a bar; and a line at zero."""
    rows = [row for row in rows if math.isfinite(row.value)]
    ends = [0.0, *(row.value + sign * row.error for row in rows for sign in (-1, 1))]
    left = 24 + max((Canvas.length(row.name) for row in rows), default=0)
    height = MARGIN["top"] + MARGIN["bottom"] + ROW * max(len(rows), 1)
    canvas = Canvas((width, height))
    x = Axis.around(ends, left, width - MARGIN["right"])
    y = Axis(0, max(len(rows), 1), MARGIN["top"], height - MARGIN["bottom"])
    draw_columns(canvas, x, y.last, y.first)
    canvas.line([(x.pixel(0), y.first), (x.pixel(0), y.last)], PALE, 1)
    draw_border(canvas, x, y.last, y.first, title, x_label)
    colours = {group: COLOURS[n % len(COLOURS)] for n, group in enumerate(dict.fromkeys(row.group for row in rows))}
    for n, row in enumerate(rows):
        at = y.pixel(n + 0.5)
        canvas.text((x.first - 8, at), row.name, "rm")
        canvas.line([(x.pixel(row.value - row.error), at), (x.pixel(row.value + row.error), at)], colours[row.group])
        canvas.marker((x.pixel(row.value), at), "circle", colours[row.group])
    return canvas.picture()


def axes(series, levels=(), log_x=False, size=(1000, 700), log_y=False, falling_x=False):
    """The (x, y) axes of a picture: from a value to its pixel, from the left and from the top."""
    points = [point for s in series for point in s.drawn]
    x = Axis.around([point[0] for point in points], MARGIN["left"], size[0] - MARGIN["right"], log_x, falling_x)
    heights = [point[1] for point in points] + [level for level, _ in levels]
    return x, Axis.around(heights, size[1] - MARGIN["bottom"], MARGIN["top"], log_y)


# ---------------------------------------------------------------------------------------------------------------------
# What is drawn.


def draw_frame(canvas, x, y, title, x_label, y_label):
    """The grid, the axes with their ticks, and what they mean."""
    draw_columns(canvas, x, y.first, y.last)
    for tick in y.ticks():
        at = y.pixel(tick)
        canvas.line([(x.first, at), (x.last, at)], GRID, 1)
        canvas.text((x.first - 8, at), f"{tick:.6g}", "rm")
    draw_border(canvas, x, y.first, y.last, title, x_label)
    canvas.upright((8, (y.first + y.last) / 2), y_label, 16)


def draw_columns(canvas, x, bottom, top):
    """The x axis's ticks, and the lines of the grid above them."""
    for tick in x.ticks():
        at = x.pixel(tick)
        canvas.line([(at, bottom), (at, top)], GRID, 1)
        canvas.text((at, bottom + 8), f"{tick:.6g}", "ma")


def draw_border(canvas, x, bottom, top, title, x_label):
    """The frame, with the title above it and what x means below."""
    corners = [(x.first, bottom), (x.last, bottom), (x.last, top), (x.first, top), (x.first, bottom)]
    canvas.line(corners, INK, 1)
    canvas.text(((x.first + x.last) / 2, bottom + 34), x_label, "ma", size=16)
    canvas.text((x.first, top - 12), title, "ls", size=17)


def draw_levels(canvas, levels, x, y):
    """Dashed lines with their texts -> the boxes of the texts."""
    boxes = []
    for level, text in levels:
        at, width = y.pixel(level), canvas.length(text)
        canvas.dashes((x.first, at), (x.last, at))
        canvas.text((x.last - 6, at - 4), text, "rs", PALE)
        boxes.append((x.last - 6 - width, at - 20, x.last - 6, at))
    return boxes


def draw_legend(canvas, series, styles, x, y, taken):
    """In the corner of the frame that hides least of what is drawn in the boxes `taken` -> [its own box]."""
    named = [(s, style) for s, style in zip(series, styles, strict=True) if s.label]
    if not named:
        return []
    width, height = 44 + max(canvas.length(s.label) for s, _ in named), 20 * len(named) + 8
    corners = [
        (left, top, left + width, top + height)
        for top in (y.first - height - 8, y.last + 8)
        for left in (x.last - width - 8, x.first + 8)
    ]
    box = min(corners, key=lambda corner: sum(overlap(corner, other) for other in taken))
    canvas.box(box)
    for n, (s, (colour, marker)) in enumerate(named):
        middle = box[1] + 14 + 20 * n
        if s.line:
            canvas.line([(box[0] + 8, middle), (box[0] + 32, middle)], colour, s.width)
        if s.markers:
            canvas.marker((box[0] + 20, middle), marker, colour)
        canvas.text((box[0] + 38, middle), s.label, "lm")
    return [box]


def draw_texts(canvas, series, styles, places, x, y, taken):
    """Each point's text beside it, where there is room; further away with a line to it; or not at all."""
    for s, (colour, _), at in zip(series, styles, places, strict=True):
        for point, place in zip(s.drawn, at, strict=True):
            if len(point) < 3:
                continue
            width = canvas.length(point[2], 12)
            inside = x.first, y.last, x.last, y.first
            free = (beside for beside in boxes_beside(place, width, 13) if is_free(beside[1], inside, taken))
            distance, box = next(free, (None, None))
            if box is None:
                continue
            if distance > RADIUS + 4:
                end = min(max(place[0], box[0]), box[2]), min(max(place[1], box[1]), box[3])
                canvas.line([place, end], colour, 0.5)
            canvas.text(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), point[2], "mm", colour, 12)
            taken.append(box)


def is_free(box, inside, taken):
    """Whether a box is within another, and apart from all that are taken."""
    within = inside[0] < box[0] and box[2] < inside[2] and inside[1] < box[1] and box[3] < inside[3]
    return within and not any(overlap(box, other) for other in taken)


def boxes_beside(place, width, height):
    """(distance, box) of where a text may stand, the nearest first."""
    for distance in (RADIUS + 3, 18, 30, 44, 60):
        for right, down in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1)):
            cx = place[0] + right * (distance + width / 2)
            cy = place[1] + down * (distance + height / 2)
            yield distance, (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)


def around(place, radius):
    return place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius


def overlap(a, b):
    """Whether two boxes (left, top, right, bottom) share some of their area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


class Canvas:
    """A white picture that is drawn on in pixels of its final size, counted from the left and the top."""

    def __init__(self, size):
        self.image = Image.new("RGB", tuple(FINE * side for side in size), "white")
        self.draw = ImageDraw.Draw(self.image)

    def picture(self):
        return self.image.reduce(FINE)

    def line(self, places, colour, width=2):
        self.draw.line([scaled(place) for place in places], colour, max(round(FINE * width), 1), joint="curve")

    def dashes(self, start, end, length=6):
        for left in range(round(start[0]), round(end[0]), 2 * length):
            self.line([(left, start[1]), (min(left + length, end[0]), end[1])], PALE, 1)

    def box(self, box):
        self.draw.rectangle([*scaled(box[:2]), *scaled(box[2:])], "white", GRID, FINE)

    def marker(self, place, kind, colour):
        (x, y), r = scaled(place), FINE * RADIUS
        if kind == "circle":
            self.draw.ellipse([x - r, y - r, x + r, y + r], colour)
        elif kind == "cross":
            for sign in (-1, 1):
                self.draw.line([(x - r, y - sign * r), (x + r, y + sign * r)], colour, 2 * FINE)
        else:
            corners = {
                "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
                "triangle": [(0, -1), (1, 0.9), (-1, 0.9)],
                "diamond": [(0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)],
            }[kind]
            self.draw.polygon([(x + r * right, y + r * down) for right, down in corners], colour)

    def text(self, place, text, anchor, colour=INK, size=14):
        self.draw.text(scaled(place), text, colour, font(size), anchor, stroke_width=FINE, stroke_fill="white")

    def upright(self, place, text, size):
        """Text from the bottom to the top, its left side and its middle at the place."""
        if not text:
            return
        left, top, right, bottom = font(size).getbbox(text)
        mask = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
        ImageDraw.Draw(mask).text((-left, -top), text, 255, font(size))
        mask = mask.transpose(Image.Transpose.ROTATE_90)
        x, y = scaled(place)
        self.image.paste(INK, (round(x), round(y - mask.height / 2)), mask)

    def paste(self, picture, place):
        """A picture in pixels of the canvas, FINE times as large as it will be."""
        self.image.paste(picture, tuple(map(round, scaled(place))))

    @staticmethod
    def length(text, size=14):
        return font(size).getlength(text) / FINE


def scaled(place):
    return FINE * place[0], FINE * place[1]


def font(size):
    return ImageFont.load_default(FINE * size)
