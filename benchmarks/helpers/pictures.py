"""What the pictures of the benchmarks share: their style, logarithmic axes with plain numbers, names beside points."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from data.files import write_atomically

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe & Ito: for all eyes
PALE = "#777777"
matplotlib.rcParams.update(
    {
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.titlelocation": "left",
        "axes.titlesize": "medium",
        "figure.titlesize": "medium",
        "grid.color": "#e4e4e4",
        "legend.fontsize": "small",
    }
)
NEAR = 7  # points from a point to its name
PLACES = tuple(  # where a name may be: its distance, and the direction
    (distance, right, up)
    for distance in (NEAR, 16, 28, 42, 58)
    for right, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
)


def new_picture(width: float = 8.0, height: float = 5.6, **options: Any) -> tuple[Figure, Any]:
    """A figure of so many inches, and its axes: one, or an array where the options are those of `subplots`."""
    figure = Figure((width, height), dpi=150, layout="constrained")
    return figure, figure.subplots(**options)


def save(figure: Figure, file: str | Path) -> None:
    """Writes a PNG whole or not at all, into a folder that is made where it is not there."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(file, content.getvalue())


def make_logarithmic(axes: Axes, name: str) -> None:
    """The x or the y axis, with plain numbers at 1, 2 and 5 times the powers of ten, or at these alone where it spans
    more than a thousand. To be called after drawing."""
    axes.set(**{f"{name}scale": "log"})
    axis = getattr(axes, f"{name}axis")
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e3 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def draw_levels(axes: Axes, levels: Iterable[tuple[float, str]]) -> None:
    """Dashed lines (y, name) across the picture."""
    for level, name in levels:
        axes.axhline(level, color=PALE, linestyle="--", linewidth=1, zorder=1)
        end = axes.get_yaxis_transform()
        axes.annotate(name, (1, level), (-4, 3), end, "offset points", ha="right", color=PALE, size="small")


def name_points(axes: Axes, points: Iterable[tuple[float, float, str]]) -> None:
    """Names of scattered points (x, y, name), each where it hides nothing, or nowhere. To be called last."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    drawn = [place for scattered in axes.collections for place in axes.transData.transform(scattered.get_offsets())]
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in drawn]
    taken += [other.get_window_extent() for other in (*axes.texts, axes.get_legend()) if other]
    for x, y, name in points:
        for place in PLACES:
            text = name_beside(axes, (x, y), name, *place)
            box = text.get_window_extent().padded(2)
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if inside and not box.count_overlaps(taken):
                taken.append(box)
                if place[0] > NEAR:
                    lead(axes, (x, y), text)
                break
            text.remove()


def name_beside(axes: Axes, point: tuple[float, float], name: str, distance: float, right: int, up: int) -> Annotation:
    """A name so many points away from a point, in a direction."""
    ha, va = {-1: "right", 0: "center", 1: "left"}[right], {-1: "top", 0: "center", 1: "bottom"}[up]
    place = (distance * right, distance * up)
    return axes.annotate(name, point, place, textcoords="offset points", ha=ha, va=va, size="small")


def lead(axes: Axes, point: tuple[float, float], text: Annotation) -> None:
    """A thin line from a point to its name."""
    line = {"arrowstyle": "-", "color": PALE, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
    axes.annotate("", point, text.get_position(), textcoords="offset points", arrowprops=line)
