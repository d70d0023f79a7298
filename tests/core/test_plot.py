"""A picture of numbers: what is where its axes say."""

import math

import numpy as np
import pytest
from PIL import ImageColor

from core.plot import COLOURS, Axis, Series, axes, plot


def centre(picture, colour):
    """(x, y) in the middle of the pixels of a colour."""
    pixels = np.asarray(picture)
    y, x = np.nonzero((pixels == ImageColor.getrgb(colour)).all(axis=2))
    return x.mean(), y.mean()


@pytest.mark.parametrize("log_x", [False, True])
def test_points_land_where_the_axes_say(log_x):
    series = [Series("", [(0.01, 20.0)]), Series("", [(0.1, 25.0)]), Series("", [(1.0, 22.0)])]
    picture = plot(series, "title", "x", "y", log_x)
    assert picture.size == (1000, 700) and picture.mode == "RGB" and picture.getpixel((0, 0)) == (255, 255, 255)
    x, y = axes(series, log_x=log_x)
    places = [centre(picture, colour) for colour in COLOURS[:3]]
    for s, place in zip(series, places, strict=True):
        (value, height), *_ = s.points
        assert place == pytest.approx((x.pixel(value), y.pixel(height)), abs=1.5)
    share = (places[1][0] - places[0][0]) / (places[2][0] - places[0][0])
    assert share == pytest.approx(0.5 if log_x else 0.09 / 0.99, abs=0.01)
    assert (places[0][1] - places[2][1]) / (places[0][1] - places[1][1]) == pytest.approx(2 / 5, abs=0.01)


@pytest.mark.parametrize("values", [[0.003, 3.0], [2.0, 2.1], [1e-9, 1e6], [5.0], []])
@pytest.mark.parametrize("log", [False, True])
def test_axis(values, log):
    axis = Axis.around(values, 100, 500, log)
    assert (axis.pixel(axis.low), axis.pixel(axis.high)) == (pytest.approx(100), pytest.approx(500))
    assert all(100 < axis.pixel(value) < 500 for value in values)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 20 and ticks == sorted(ticks)
    assert all(axis.low * (1 - 1e-9) <= tick <= axis.high * (1 + 1e-9) for tick in ticks)


def test_round_ticks():
    assert Axis(0.009, 1.1, 0, 1, log=True).ticks() == pytest.approx([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1])
    assert Axis(19.7, 23.2, 0, 1).ticks() == pytest.approx([20, 20.5, 21, 21.5, 22, 22.5, 23])


def test_a_line_passes_its_points():
    series = [Series("", [(0, 0), (1, 1), (2, 0)], line=True, markers=False, colour="#ff0000")]
    picture, (x, y) = plot(series, size=(300, 200)), axes(series, size=(300, 200))
    for value, height in [(0.5, 0.5), (1.5, 0.5)]:
        assert picture.getpixel((int(x.pixel(value)), int(y.pixel(height))))[1] < 128


def test_crowded_texts_levels_and_what_is_not_finite():
    crowd = [(1 + n / 1000, 5 + n / 1000, f"point {n}") for n in range(60)]
    series = [Series("crowd", crowd), Series("odd", [(1.0, math.inf), (math.nan, 2.0)])]
    picture = plot(series, levels=[(4.9, "level")], log_x=True, size=(500, 400))
    assert picture.size == (500, 400) and len(np.unique(np.asarray(picture))) > 10
    assert plot([]).size == (1000, 700)
    with pytest.raises(ValueError, match="no place for 0"):
        plot([Series("", [(0, 1)])], log_x=True)
