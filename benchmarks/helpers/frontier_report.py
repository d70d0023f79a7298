"""What benchmarks/frontier.py tells of the chains that it measured: compared, as a table, as pictures, and merged."""

import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from benchmarks.helpers.frontier_chains import by_reason, default_chains
from benchmarks.helpers.pictures import PALE, draw_levels, make_logarithmic, name_points, new_picture, save
from benchmarks.helpers.reports import environment, read_report, show, table, without_bicubic
from benchmarks.helpers.trained_network import Setting
from core.checkpoint.files import step_of
from core.config import PRESETS
from core.device import precision_on
from core.errors import UserError
from core.network_size import active_share, parameter_count
from core.sampling.super_resolution import Sampling
from model.sampling.group_decoding import decoded

OF_REUSE = ("key_steps", "decode", "decode_batch")  # in all else a chain agrees with the one that it is compared with
SHOWN = ("consistency", "start", "prior_noise", "eta")  # settings that the title tells where they are on
COLUMNS = {  # of the table: what it is called, how it is written
    "psnr": ("PSNR, dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "lpips": ("LPIPS", "{:.4f}"),
    "sharpness": ("sharpness", "{:.3f}"),
    "spectral_distance": ("spectral, dB", "{:.2f}"),
    "lr_mse": ("LR MSE", "{:.2e}"),
    "seconds": ("s/image", "{:.4g}"),
    "speed_up": ("speed-up", "{:.2f}"),
    "saved": ("time saved", "{:.1f} %"),
    "encoder_calls": ("encoder", "{}"),
    "decoder_calls": ("decoder", "{}"),
}
FRONTIERS = {"psnr": "on_frontier", "ssim": "on_ssim_frontier"}  # a measure -> the key of a row that marks its frontier
PLOTTED = {"psnr": ("", None), "sharpness": ("_sharpness", (1, "HR"))}  # -> what its file's name ends in, the ideal
MARKERS = "os^Dv"  # of solvers, in the order in which they come
MOST_NAMED = 40  # chains whose names a picture shows; of more, those of the frontier alone
MERGED_IF_EQUAL = (
    "config", "checkpoint", "step", "parameters", "density", "calibrated", "dataset", "images", "batch", "precision",
    "settings", "device",
)  # fmt: skip
COMPUTED = ("speed_up", "saved")  # columns that are no measurements

# ---------------------------------------------------------------------------------------------------------------------
# What is told.


def describe(setting: Setting, arguments: Namespace) -> dict[str, Any]:
    """What is measured, where and how."""
    config, spec = setting.config, setting.config.datasets[arguments.data]
    told = ("name", "dataroot", "hr_dataroot", "lr_dataroot", "l_resolution", "r_resolution")
    return {
        "benchmark": "frontier",
        **environment(setting.processes.device),
        "config": config.name,
        "checkpoint": arguments.checkpoint,
        "step": step_of(arguments.checkpoint) if arguments.checkpoint else None,
        "parameters": parameter_count(setting.network),
        "density": active_share(setting.network),
        "calibrated": setting.encoder_change is not None,
        "dataset": {"key": arguments.data, **{name: spec[name] for name in told}},
        "images": len(setting.samples),
        "batch": setting.batch,
        "precision": precision_on(setting.processes.device, config.sample.precision),
        "settings": config.sample.to_dict(),
    }


def describe_chain(sampling: Sampling) -> dict[str, Any]:
    """What a chain does; of an image, in calls of the encoder and of the decoder for a single step. A mirrored result
    takes two chains."""
    plan, settings = sampling.executed, sampling.settings
    return {
        "label": sampling.describe(),
        "settings": settings.to_dict(),
        "steps": plan.steps,
        "key_steps": str(plan),
        "encoder_calls": len(plan.key_steps),
        "decoder_calls": sum(decoded(len(group), settings.decode) for group in plan.groups),
    }


# ---------------------------------------------------------------------------------------------------------------------
# What is compared.


def add_row(report: dict[str, Any], chain: dict[str, Any], measures: dict[str, Any]) -> None:
    """A chain with its measures, and all rows compared anew. What is said of bicubic is the same for every chain."""
    own, report["bicubic"] = without_bicubic(measures)
    report["rows"].append(chain | own)
    compare(report["rows"])


def compare(rows: list[dict[str, Any]]) -> None:
    """Adds to each row what the others make of it: its chain without reuse, what it saves over that, the frontiers."""
    for row in rows:
        plain = next((other for other in rows if is_plain_of(other, row)), None)
        row["plain"] = plain and plain["chain"]
        row["speed_up"] = plain and plain["seconds"] / row["seconds"]
        row["saved"] = plain and 100 * (1 - row["seconds"] / plain["seconds"])
    for key, mark in FRONTIERS.items():
        for row, on in zip(rows, frontier([(row["seconds"], row[key]) for row in rows]), strict=True):
            row[mark] = on


def is_plain_of(other: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether another row is the same chain with its encoder, and so its decoder, at every step."""
    same = all(row["settings"][key] == value for key, value in other["settings"].items() if key not in OF_REUSE)
    return same and other["encoder_calls"] == other["steps"]


def frontier(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of the points (seconds, quality) no other one beats: as fast and as good, and one of them more so."""
    best, kept = -math.inf, set()
    numbers = {point for point in points if not math.isnan(point[1])}
    for point in sorted(numbers, key=lambda point: (point[0], -point[1])):
        if point[1] > best:
            best = point[1]
            kept.add(point)
    return [point in kept for point in points]


# ---------------------------------------------------------------------------------------------------------------------
# What is merged.


def merge(files: Sequence[str]) -> dict[str, Any]:
    """The reports of several runs, each on a share of the chains, as one. Raises UserError unless they measured
    different chains of one network, on the same images and the same kind of device."""
    reports = [report_to_merge(file) for file in files]
    for file, report in zip(files, reports, strict=True):
        if unequal := differences(reports[0], report):
            raise UserError(f"{files[0]} and {file} cannot be merged: they differ in {', '.join(unequal)}")
    rows, order = {}, list(default_chains())
    for file, report in zip(files, reports, strict=True):
        for row in report["rows"]:
            if row["chain"] in rows:
                raise UserError(f"{file}: chain {row['chain']} is in another of the reports too")
            rows[row["chain"]] = row
    names = sorted(rows, key=lambda name: order.index(name) if name in order else len(order))
    left_out = {name: why for report in reports for name, why in report["left_out"].items() if name not in rows}
    merged = reports[0] | {"left_out": left_out, "rows": [rows[name] for name in names]}
    compare(merged["rows"])
    return merged


def report_to_merge(file: str | Path) -> dict[str, Any]:
    """A report of frontier.py with rows. A measure that JSON has no number for is read as not a number."""
    report = read_report(file, "frontier")
    if not report.get("rows"):
        raise UserError(f"{file}: has no rows: no chain was measured")
    for measures in (report["bicubic"], *report["rows"]):
        unknown = [key for key in COLUMNS if key not in COMPUTED and measures.get(key, 0) is None]
        measures.update(dict.fromkeys(unknown, math.nan))
    return report


def differences(report: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What keeps two reports from being merged: "images (32, 16)", ..."""
    a, b = (flat({key: report.get(key) for key in MERGED_IF_EQUAL}) for report in (report, other))
    return [f"{name} ({a.get(name)}, {b.get(name)})" for name in a | b if a.get(name) != b.get(name)]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested dicts as one, {"dataset.name": ...}."""
    if not isinstance(value, dict):
        return {name: value}
    return {path: leaf for key, item in value.items() for path, leaf in flat(item, f"{name}.{key}".strip(".")).items()}


# ---------------------------------------------------------------------------------------------------------------------
# What is read.


def title(report: dict[str, Any]) -> str:
    weights = f"step {report['step']} of {report['checkpoint']}" if report["checkpoint"] else "random weights"
    data, on = report["dataset"], [name for name, value in report["settings"].items() if value and name in SHOWN]
    options = "".join(f", {name} {report['settings'][name]:g}" for name in on)
    lines = [
        f"{report['config']}: {report['parameters']:,} parameters, {report['density']:.0%} of them active, {weights}",
        f"{data['name']}, {data['l_resolution']} → {data['r_resolution']}: {report['images']} images, "
        f"batches of {report['batch']}{options}, in {report['precision']} on {report['device']}",
        "*: no chain is both as fast and better; speed-up, time saved: over the same steps without reuse",
        "s/image: median of the batches after the first; encoder, decoder: calls in a chain",
    ]
    lines += [f"left out: {names} ({reason})" for reason, names in by_reason(report["left_out"]).items()]
    return "\n".join(lines)


def as_table(report: dict[str, Any]) -> str:
    rows = ([{"chain": "bicubic"} | report["bicubic"]] if report["bicubic"] else []) + report["rows"]
    columns = [key for key in COLUMNS if any(key in row for row in rows)]
    cells = [[row["chain"], *(cell(row, key) for key in columns)] for row in rows]
    return table(["", *(COLUMNS[key][0] for key in columns)], cells)


def cell(row: dict[str, Any], key: str) -> str:
    """A measure as text, those of a frontier with a star."""
    star = ("*" if row.get(FRONTIERS[key]) else " ") if key in FRONTIERS else ""
    return show(row.get(key), COLUMNS[key][1]) + star


def save_plots(report: dict[str, Any], file: str | Path) -> list[Path]:
    """Seconds against each measure of PLOTTED, as pictures -> their files: `file`, and others beside it."""
    files = {key: Path(file).with_stem(Path(file).stem + ending) for key, (ending, _) in PLOTTED.items()}
    for key, path in files.items():
        save(plot_measure(report, key), path)
    return list(files.values())


def plot_measure(report: dict[str, Any], key: str) -> Figure:
    """Seconds against a measure: a marker for each solver, a colour for each number of steps, hollow where nothing is
    reused; and the frontier, if any, as a line. Where chains are too many to name, the presets and those on the
    frontier of PSNR have names in all pictures."""
    shown = shown_rows(report)
    rows = [row for row in shown if math.isfinite(row.get(key, math.nan))]
    lengths = sorted({length(row) for row in rows})
    shades = dict(zip(lengths, colormaps["viridis_r"](np.linspace(0.1, 1, len(lengths))), strict=True))
    markers = dict(zip(dict.fromkeys(row["settings"]["solver"] for row in rows), cycle(MARKERS)))
    figure, axes = new_picture(9.0, 5.6)
    for row in rows:
        plain = row["encoder_calls"] == row["steps"]
        shade = shades[length(row)]
        colours: dict[str, Any] = {"edgecolors": [shade], "facecolors": "white" if plain else [shade]}
        axes.scatter(row["seconds"], row[key], marker=markers[row["settings"]["solver"]], **colours)
    best = sorted((row["seconds"], row[key]) for row in rows if row.get(FRONTIERS.get(key, "")))
    if len(best) > 1:
        axes.plot(*zip(*best, strict=True), color=PALE, linewidth=1, zorder=0.9)
    levels = [(report["bicubic"].get(key, math.nan), "bicubic"), *filter(None, [PLOTTED[key][1]])]
    draw_levels(axes, [level for level in levels if math.isfinite(level[0])])
    hidden = len(report["rows"]) - len(shown)
    told = f"\n{hidden} chains with less SSIM than bicubic are not drawn" if hidden else ""
    heading = f"{report['config']}: {report['images']} images, batches of {report['batch']}, {report['device']}{told}"
    axes.set(xlabel="seconds per image", ylabel=COLUMNS[key][0], title=heading)
    make_logarithmic(axes, "x")
    figure.legend(handles=legend_of(rows, shades, markers, len(best) > 1), loc="outside right center")
    name_points(axes, [(row["seconds"], row[key], name) for row in rows if (name := name_of(row, rows))])
    return figure


def length(row: dict[str, Any]) -> int:
    return row["settings"]["steps"] or row["steps"]


def name_of(row: dict[str, Any], rows: list[dict[str, Any]]) -> str | None:
    """What the picture calls a chain, beside its colour and marker; None where it has no name."""
    preset = preset_of(row["settings"])
    if preset or row["on_frontier"] or len(rows) <= MOST_NAMED:
        return preset or row["chain"].removeprefix(f"{row['settings']['solver']}{length(row)}-")
    return None


def legend_of(
    rows: list[dict[str, Any]], shades: Mapping[int, Any], markers: Mapping[str, str], has_frontier: bool
) -> list[Artist]:
    """Solvers, numbers of steps, and what hollow markers and the line are, where they are there."""
    grey: dict[str, Any] = {"color": PALE, "linestyle": ""}
    handles: list[Artist] = [Line2D([], [], marker=mark, label=solver, **grey) for solver, mark in markers.items()]
    handles += [Patch(color=shade, label=f"{steps} steps") for steps, shade in shades.items()]
    if any(row["encoder_calls"] == row["steps"] for row in rows):
        handles.append(Line2D([], [], marker="o", mfc="white", label="without reuse", **grey))
    if has_frontier:
        handles.append(Line2D([], [], color=PALE, linewidth=1, label="frontier"))
    return handles


def shown_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The chains that are worth a look: with as much SSIM as bicubic upsampling at least. All, where none has."""
    least = report["bicubic"].get("ssim", -math.inf)
    return [row for row in report["rows"] if not row["ssim"] < least] or report["rows"]


def preset_of(settings: Mapping[str, Any]) -> str | None:
    """The preset of infer.py that samples as these settings do, or None."""
    settings = {"mirrored": False, **settings}  # reports of before that key lack it
    return next((name for name, changes in PRESETS.items() if changes.items() <= settings.items()), None)
