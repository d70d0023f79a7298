"""Histograms of the measurements of images, as outlines that a page draws."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

BINS = 24
WIDE = 100  # times the smallest value: from there on the axis is logarithmic
WIDTH, HEIGHT = 240, 72  # of a drawing, in its own units


class Histogram(NamedTuple):
    """How many images have which value, of several series of values on one axis."""

    low: float
    high: float
    is_log: bool  # whether the axis is logarithmic
    outlines: Mapping[str, str]  # {series: the path of an SVG, in a box of WIDTH x HEIGHT}


def histogram(series: Mapping[str, Sequence[float]]) -> Histogram | None:
    """The series that have values, in equal bins; None where no two values differ."""
    values = {name: np.asarray(numbers, dtype=float) for name, numbers in series.items() if len(numbers)}
    if not values:
        return None
    everything = np.concatenate(list(values.values()))
    low, high = float(everything.min()), float(everything.max())
    if not high > low:
        return None
    is_log = 0 < WIDE * low < high
    edges = np.geomspace(low, high, BINS + 1) if is_log else np.linspace(low, high, BINS + 1)
    counts = {name: np.histogram(numbers, edges)[0] for name, numbers in values.items()}
    most = max(int(count.max()) for count in counts.values())
    return Histogram(low, high, is_log, {name: outline(count / most) for name, count in counts.items()})


def outline(heights: np.ndarray) -> str:
    """Bars of these heights, from 0 to 1, as one closed path without the lines between them."""
    edges = np.linspace(0, WIDTH, len(heights) + 1)
    steps = "".join(f"V{HEIGHT * (1 - height):.1f}H{edge:.1f}" for height, edge in zip(heights, edges[1:], strict=True))
    return f"M0 {HEIGHT}{steps}V{HEIGHT}Z"
