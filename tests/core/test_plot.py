"""Pictures of numbers: what is where its axes say, and as dark as it is large."""

import math

import numpy as np
import pytest
from PIL import ImageColor

from core.heat_map import SCALE, WIDTH, Group, cells, colours, grouped_heat_map, heights_of, numbers_of_bar
from core.plot import COLOURS, PALE, ROW, Axis, Row, Series, axes, plot, row_plot


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


@pytest.mark.parametrize("log", [False, True])
def test_a_falling_axis_is_the_rising_one_turned_round(log):
    rising, falling = (Axis.around([0.2, 3.0, 700.0], 100, 500, log, turned) for turned in (False, True))
    for value in (0.2, 3.0, 700.0):
        assert falling.pixel(value) - 100 == pytest.approx(500 - rising.pixel(value))
    assert falling.ticks() == rising.ticks()


def test_points_on_a_logarithmic_height_and_a_falling_width():
    series = [Series("", [point]) for point in [(1999, 1e-4), (1000, 1e-3), (1, 1e-1)]]
    picture = plot(series, log_y=True, falling_x=True)
    (left, low), (middle, _), (right, high) = (centre(picture, colour) for colour in COLOURS[:3])
    _, between = centre(picture, COLOURS[1])
    assert left < middle < right and middle == pytest.approx((left + right) / 2, abs=1.5)
    assert (low - between) / (low - high) == pytest.approx(1 / 3, abs=0.01)


def test_a_line_has_its_width():
    def dark(width):
        series = [Series("", [(0, 0), (1, 0)], True, False, "#ff0000", width)]
        picture, (x, _) = plot(series, size=(300, 200)), axes(series, size=(300, 200))
        column = np.asarray(picture)[:, int(x.pixel(0.3))]
        return (column[:, 0] > 200).sum() - (column[:, 1] > 200).sum()  # red, and not white

    assert dark(6) - dark(2) == pytest.approx(4, abs=1)


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


# ---------------------------------------------------------------------------------------------------------------------
# Heat maps.


def test_rows_from_the_top_with_their_values_and_errors():
    """The zero line, two values to the right of it and their errors: distances are as the numbers are."""
    rows = [
        Row("a", 0.2, 0.1, "one"),
        Row("longer name", 0.4, 0.0, "two"),
        Row("b", float("nan")),
        Row("c", 0.3, 0, "one"),
    ]
    pixels = np.asarray(row_plot(rows))
    bar = np.argwhere((pixels == ImageColor.getrgb(COLOURS[0])).all(axis=2))
    other = np.argwhere((pixels == ImageColor.getrgb(COLOURS[1])).all(axis=2))
    zero = np.flatnonzero((pixels == ImageColor.getrgb(PALE)).all(axis=2).sum(axis=0) > ROW)
    last = bar[bar[:, 0] > other[:, 0].max()]
    first = bar[bar[:, 0] < other[:, 0].min()]
    assert other[:, 0].mean() - first[:, 0].mean() == pytest.approx(ROW, abs=1.5)
    assert last[:, 0].mean() - other[:, 0].mean() == pytest.approx(ROW, abs=1.5)
    unit = (other[:, 1].mean() - zero.mean()) / 0.4
    assert (last[:, 1].mean() - zero.mean()) / unit == pytest.approx(0.3, abs=0.005)
    assert [(x - zero.mean()) / unit for x in (first[:, 1].min(), first[:, 1].max())] == pytest.approx(
        [0.1, 0.3], abs=0.01
    )
    assert row_plot([]).size[1] < row_plot(rows).size[1] == row_plot(rows[:3]).size[1] + ROW


def test_colours_are_darker_the_larger_the_number():
    shades = colours(np.linspace(0, 1, 200))
    luminance = shades @ [0.2126, 0.7152, 0.0722]
    assert shades.dtype == np.uint8 and (np.diff(luminance) <= 0).all() and luminance[0] > 230 > 30 > luminance[-1]
    assert tuple(shades[0]) == ImageColor.getrgb(SCALE[0]) and tuple(shades[-1]) == ImageColor.getrgb(SCALE[-1])


def test_cells_lie_in_order_and_have_the_colour_of_their_root():
    rows = np.array([[0.0, 0.25], [1.0, 4.0]])
    pixels = np.asarray(cells(rows, 4.0, (10, 6)))
    assert pixels.shape == (12, 20, 3)
    expected = colours(np.array([[0, 0.25], [0.5, 1]]))
    assert (pixels[[0, 5], 0] == expected[0, 0]).all() and (pixels[[0, 5], 19] == expected[0, 1]).all()
    assert (pixels[[6, 11], 9] == expected[1, 0]).all() and (pixels[[6, 11], 10] == expected[1, 1]).all()


def test_more_columns_than_pixels_are_averaged():
    rows = np.tile([0.0, 1.0], 4000)[None]
    pixels = np.asarray(cells(rows, 1.0, (10, 2)), dtype=float)
    assert np.allclose(pixels, colours(np.array([0.0, 1.0])).mean(axis=0), atol=1)


def test_heights_of_groups():
    assert heights_of([10, 1, 3]) == [140, 18, 42]
    many = heights_of([1000, 1, 439])
    assert many == [500, 18, 220]


def test_numbers_of_the_bar_are_round_and_apart():
    numbers = numbers_of_bar(1.0, 320)
    assert numbers[0] == 0 and numbers[-1] == 1 and {0.5, 0.2, 0.1, 0.05} <= set(numbers)
    for most in (1.0, 0.34, 7.2):
        numbers = numbers_of_bar(most, 320)
        places = [320 * (number / most) ** 0.5 for number in numbers]
        assert numbers == sorted(numbers) and numbers[-1] == most and min(np.diff(places)) >= 18


def test_a_heat_map_holds_its_groups_from_the_top():
    groups = [Group("first", np.full((2, 3), 0.25)), Group("second", np.full((5, 3), 1.0), "note")]
    picture = grouped_heat_map(groups, [10, 20, 30], "title", "step", "density", "notes")
    pixels = np.asarray(picture)
    assert picture.mode == "RGB" and picture.getpixel((0, 0)) == (255, 255, 255)
    heights = []
    for shade in (0.5, 1.0):
        found = (pixels == colours(np.array(shade))).all(axis=2)
        y = np.nonzero(found.sum(axis=1) >= WIDTH - 2)[0]
        heights.append((y.min(), y.max()))
    (top, middle), (second, bottom) = heights
    assert middle - top + 1 == pytest.approx(28, abs=1) and bottom - second + 1 == pytest.approx(70, abs=1)
    assert middle < second < middle + 8
    assert grouped_heat_map([Group("nothing", np.zeros((1, 1)))], [1]).size[1] > 100
