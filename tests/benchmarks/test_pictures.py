"""Pictures of numbers: what is where its axes say, names that hide nothing, and one line without matplotlib."""

import itertools
import math
import sys

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from benchmarks import density, frontier, tuning
from benchmarks import feature_similarity as feature_similarity_script
from benchmarks import gallery as gallery_script
from benchmarks import layer_density as layer_density_script
from benchmarks.helpers import feature_similarity, frontier_report, gallery, layer_density, pictures


def texts_of(axes):
    return [text.get_text() for text in axes.texts if text.get_text()]


def points_of(axes):
    """(x, y) of everything that is scattered or drawn as a line."""
    lines = [np.transpose(line.get_data()) for line in axes.lines]
    return [
        tuple(map(float, point)) for part in (*lines, *(c.get_offsets() for c in axes.collections)) for point in part
    ]


# ---------------------------------------------------------------------------------------------------------------------
# What the pictures share.


def test_names_hide_neither_each_other_nor_points():
    _, axes = pictures.new_picture(5, 4)
    points = [(1 + n / 40, (5 * n % 7) / 40, f"point {n}") for n in range(12)]
    axes.scatter([x for x, _, _ in points], [y for _, y, _ in points])
    pictures.name_points(axes, points)
    names = [text for text in axes.texts if text.get_text()]
    assert len(names) >= 10
    boxes = [Text.get_window_extent(text) for text in names]
    dots = [axes.transData.transform(point[:2]) for point in points]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(box.contains(*dot) for box in boxes for dot in dots)
    assert all(axes.bbox.contains(*corner) for box in boxes for corner in box.get_points())


@pytest.mark.slow
def test_names_without_room_are_left_out():
    _, axes = pictures.new_picture(2, 2)
    points = [(1 + n / 1e4, 1 + n / 1e4, f"a long name, {n}") for n in range(25)]
    axes.scatter([x for x, _, _ in points], [y for _, y, _ in points])
    pictures.name_points(axes, points)
    assert len(texts_of(axes)) < 20


@pytest.mark.parametrize(
    ("values", "told"), [((0.004, 0.3), ["0.005", "0.01", "0.02", "0.05", "0.1", "0.2"]), ((1e-6, 1), ["1e-05", "0.1"])]
)
def test_logarithmic_axes_have_plain_numbers(values, told):
    figure, axes = pictures.new_picture()
    axes.plot(values, values)
    pictures.make_logarithmic(axes, "x")
    figure.draw_without_rendering()
    assert axes.get_xscale() == "log" and axes.get_yscale() == "linear"
    assert set(told) <= {label.get_text() for label in axes.get_xticklabels()}


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        *((script, ["--merge", "a.json"]) for script in (density, frontier, tuning)),
        (feature_similarity_script, ["--small"]),
        (layer_density_script, ["--join", "a.json"]),
        (gallery_script, []),
    ],
)
def test_without_matplotlib_it_is_one_line(script, arguments, monkeypatch, capsys):
    """...before anything is measured or read."""
    monkeypatch.setattr("requirements.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", [script.__name__, *arguments])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and len(error.splitlines()) == 1
    assert "pip install -r benchmarks/requirements.txt" in error


def test_files_are_whole_and_folders_are_made(tmp_path):
    figure, _ = pictures.new_picture(4, 3)
    pictures.save(figure, tmp_path / "new" / "a.png")
    assert Image.open(tmp_path / "new" / "a.png").size == (600, 450)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.png"]


# ---------------------------------------------------------------------------------------------------------------------
# Each picture.


def test_density_has_a_line_and_a_point_for_each_other_rule():
    rows = [("density-50", 0.5, 0.07), ("random", 0.15, 0.08), ("density-5", 0.05, 0.09), ("dense", 1.0, 0.06)]
    rows = [{"variant": name, "density": share, "loss": loss} for name, share, loss in rows]
    (axes,) = density.picture({"config": "demo", "steps": 8000, "rows": rows}).axes
    (line,) = axes.lines
    assert list(zip(*line.get_data(), strict=True)) == [(5, 0.09), (50, 0.07), (100, 0.06)]
    assert (15, 0.08) in points_of(axes) and texts_of(axes) == ["random"]
    assert axes.get_xscale() == "log" and "%" in axes.get_xlabel() and "8,000" in axes.get_title(loc="left")
    (alone,) = density.picture({"config": "demo", "steps": 8, "rows": rows[1:2]}).axes
    assert points_of(alone) == [(15, 0.08)]


def test_tuning_has_rows_from_the_top_with_their_errors():
    rows = [
        ("reference", 0.0, 0.0),
        ("lr-1", -0.2, 0.1),
        ("seed-1", None, None),
        ("ema-1", 0.4, None),
        ("lr-2", 0.3, 0),
    ]
    rows = [{"variant": name, "difference": value, "difference_error": error} for name, value, error in rows]
    figure = tuning.picture({"config": "demo", "steps": 8, "rows": rows})
    (axes,) = figure.axes
    figure.draw_without_rendering()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["lr-1", "ema-1", "lr-2"] and axes.yaxis_inverted()
    one, other, two = axes.containers
    assert one[0].get_color() == two[0].get_color() != other[0].get_color()  # a family, a colour
    assert [float(bar[0].get_xdata()[0]) for bar in axes.containers] == [-0.2, 0.4, 0.3]
    (ends,) = one[2][0].get_segments()
    assert ends[:, 0] == pytest.approx([-0.3, -0.1])
    assert tuning.picture({"config": "demo", "steps": 8, "rows": rows[:1]}).axes


def frontier_row(chain, solver, steps, calls, seconds, psnr, **marks):
    settings = {"solver": solver, "steps": steps, "key_steps": "?", "decode": "every"}
    measures = {"seconds": seconds, "psnr": psnr, "ssim": 0.6, "sharpness": 0.8}
    marks = {"on_frontier": False, "on_ssim_frontier": False} | marks
    return {"chain": chain, "settings": settings, "steps": steps, "encoder_calls": calls, **measures, **marks}


def test_frontier_marks_solvers_lengths_and_reuse():
    rows = [
        frontier_row("ddim10-none", "ddim", 10, 10, 0.1, 24.0, on_frontier=True),
        frontier_row("ddim10-u5", "ddim", 10, 2, 0.02, 23.0, on_frontier=True),
        frontier_row("dpm++20-u5", "dpm++", 20, 4, 0.04, 22.0),
        frontier_row("mine", "ddpm", 20, 4, 0.05, math.nan),
    ]
    report = {"config": "demo", "images": 4, "batch": 2, "device": "a GPU", "rows": rows}
    report["bicubic"] = {"psnr": 21.5, "ssim": 0.5, "sharpness": 0.4}
    figure = frontier_report.plot_measure(report, "psnr")
    (axes,) = figure.axes
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("ddim", "dpm++", "10 steps", "20 steps", "without reuse", "frontier")
    ]
    first, second, third = axes.collections
    assert [tuple(map(float, c.get_offsets()[0])) for c in (first, second, third)] == [
        (0.1, 24),
        (0.02, 23),
        (0.04, 22),
    ]
    assert (first.get_edgecolors() == second.get_edgecolors()).all()  # as many steps, one colour
    assert (first.get_edgecolors() != third.get_edgecolors()).any()
    assert (first.get_facecolors() == 1).all() and (second.get_facecolors() == second.get_edgecolors()).all()
    assert len(first.get_paths()[0].vertices) > len(third.get_paths()[0].vertices)  # a circle, a square
    levels = {line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"}
    assert levels == {21.5} and {"none", "u5", "bicubic"} <= set(texts_of(axes))
    (best,) = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert list(zip(*best.get_data(), strict=True)) == [(0.02, 23), (0.1, 24)]
    (axes,) = frontier_report.plot_measure(report, "sharpness").axes
    assert {line.get_ydata()[0] for line in axes.lines} == {0.4, 1} and axes.get_ylabel() == "sharpness"
    rows[0]["ssim"] = 0.4
    assert "\n1 chains with less SSIM" in frontier_report.plot_measure(report, "psnr").axes[0].get_title(loc="left")


def test_feature_similarity_has_a_panel_for_each_half():
    """Time goes from noise to image; what does not change has no place on a logarithmic axis."""
    rows = [
        {"half": "encoder", "place": "", "change": [1e-1, 1e-2, 1e-3]},
        {"half": "encoder", "place": "bottleneck", "change": [0.0, 0.0, 0.0]},
        {"half": "encoder", "place": "full size", "change": [1e-2, 1e-2, 1e-2]},
        {"half": "decoder", "place": "", "change": [1e-3, 1e-2, 1e-1]},
    ]
    report = {"config": "demo", "solver": "ddim", "images": ["a"], "timesteps": [90, 60, 30, 0], "rows": rows}
    encoder, decoder = feature_similarity.picture(report).axes
    assert (encoder.get_title(loc="left"), decoder.get_title(loc="left")) == ("encoder", "decoder")
    assert [line.get_label() for line in encoder.lines] == ["full size", "bottleneck", "mean"]
    assert list(zip(*encoder.lines[2].get_data(), strict=True)) == [(60, 1e-1), (30, 1e-2), (0, 1e-3)]
    assert list(decoder.lines[0].get_ydata()) == [1e-3, 1e-2, 1e-1] and decoder.lines[0].get_linewidth() == 3
    left, right = encoder.transData.transform([(60, 1e-2), (0, 1e-2)])[:, 0]
    low, middle, high = encoder.transData.transform([(0, 1e-3), (0, 1e-2), (0, 1e-1)])[:, 1]
    assert left < right and high - middle == pytest.approx(middle - low)


def test_layer_density_has_cells_in_order():
    """Rows of a part from the top, columns as wide as their steps, colours that follow the root of the density."""
    layers = [("a", "first", [0.0, 0.25]), ("b", "first", [0.5, 1.0]), ("c", "second", [0.25, 0.25])]
    report = {
        "run": "experiments/demo",
        "updates": [10, 30],
        "rows": [
            {"part": "first", "layers": 2, "density": [0.2, 0.6]},
            {"part": "second", "layers": 1, "density": [0.25, 0.25]},
            {"part": "all", "layers": 3, "density": [0.2, 0.5]},
        ],
        "layers": [{"layer": name, "part": part, "density": values} for name, part, values in layers],
    }
    first, second, bar = layer_density.picture(report).axes
    (cells,) = first.collections
    assert cells.get_array().tolist() == [[0.0, 0.25], [0.5, 1.0]] and first.yaxis_inverted()
    assert cells.get_coordinates()[0, :, 0].tolist() == [10, 30, 50]
    assert cells.norm([0, 0.25, 1]).tolist() == [0, 0.5, 1]
    assert [axes.get_ylabel() for axes in (first, second)] == ["first", "second"] and "density" in bar.get_ylabel()
    assert texts_of(first) == ["20 to 60%"] and second.get_xlabel() == "training step"
    shades = cells.cmap(np.linspace(0, 1, 50))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(shades) < 0).all()  # the denser, the darker


def test_a_gallery_puts_tiles_beside_each_other_with_captions_below():
    """Two rows of two tiles: gaps are white, a caption covers the lower left corner of its tile and nothing else."""
    red, blue = Image.new("RGB", (60, 40), "red"), Image.new("RGB", (30, 20), "blue")  # one half as large
    row = gallery.row_of_tiles({"a": red, "b": blue}, (60, 40))
    assert row.size == (126, 40)
    pixels = np.asarray(gallery.stacked([row, row]))
    assert pixels.shape == (86, 126, 3)
    assert (pixels[:, 60:66] == 255).all() and (pixels[40:46] == 255).all()
    assert (pixels[:18, :60] == (255, 0, 0)).all() and (pixels[:18, 66:] == (0, 0, 255)).all()
    assert (pixels[20:40, 30:60] == (255, 0, 0)).all()
    caption = pixels[20:40, :30]
    assert (caption == 0).all(axis=-1).any() and (caption == 255).all(axis=-1).any()
    assert np.array_equal(pixels[46:], pixels[:40])
