"""How benchmarks/layer_density.py reads runs, and what it reports."""

import csv
from argparse import Namespace
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from benchmarks.helpers.pictures import PALE, new_picture, save
from benchmarks.helpers.reports import publish, read_report, show, table
from core.checkpoint.files import find_checkpoint, step_of
from core.errors import UserError
from core.training.layer_history import read_layer_table
from data.errors import reason
from data.paths import is_file
from sparse.checkpoint_files import latest_prefix
from sparse.contents import read_tensors, tabulate
from sparse.errors import SparseError

Densities = Mapping[str, Sequence[float]]  # layer -> its density after each update (U,)

TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1)  # of the colour bar
LEAST_ROWS = 5  # of the picture for a part, as its name stands beside it
FILE = "density.csv"  # in the folder of a run's logs
COLUMNS = {  # of the table: what it is called, how it is written
    "layers": ("layers", "{}"),
    "weights": ("weights", "{:,}"),
    "first": ("density, first", "{:.1%}"),
    "last": ("last", "{:.1%}"),
    "checkpoint": ("checkpoint", "{:.1%}"),
    "first_share": ("share, first", "{:.1%}"),
    "last_share": ("last", "{:.1%}"),
}


class Size(NamedTuple):
    """How many weights a layer has, and how many of them are active in the checkpoint."""

    total: int
    active: int


def answer(arguments: Namespace) -> None:
    """Reads the run of the command line, or joins reports, and tells what came out."""
    report = join(arguments.join) if arguments.join else report_on(arguments.run, arguments.checkpoint)
    save(picture(report), arguments.plot)
    publish(title(report), as_table(report), report, arguments.json)
    print(f"every layer as a picture: {arguments.plot}")


def report_on(run: str, checkpoint: str | None) -> dict[str, Any]:
    """The report on a run, with the sizes of the checkpoint, or else of the run's latest, if there is one."""
    updates, densities = read_densities(table_file(Path(run)))
    checkpoint = checkpoint or latest_of(Path(run))
    sizes = read_sizes(checkpoint, densities) if checkpoint else {}
    return describe(run, checkpoint, updates, densities, sizes)


# ---------------------------------------------------------------------------------------------------------------------
# What is read.


def table_file(run: Path) -> Path:
    """The file in which a run tells the densities of its layers."""
    for folder in (run / "logs", run):
        if is_file(folder / FILE):
            return folder / FILE
    raise UserError(
        f"{run}: no {FILE} in it, or in its logs: it is no run, it is dense, or its masks had no update yet"
    )


def latest_of(run: Path) -> str | None:
    """The latest checkpoint of a run, or None."""
    prefix = latest_prefix(run / "checkpoint")
    return str(prefix) if prefix else None


def read_densities(file: Path) -> tuple[list[int], Densities]:
    """(steps of the updates (U,), {layer: densities (U,)}) in the order of the network."""
    try:
        table = read_layer_table(file)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file}: not a table of densities ({reason(error)})") from None
    if not table.steps:
        raise UserError(f"{file}: tells of no update")
    return table.steps, dict(zip(table.layers, map(list, zip(*table.rows, strict=True)), strict=True))


def read_sizes(checkpoint: str, layers: Iterable[str]) -> dict[str, Size]:
    """{layer: its size} of these layers. Raises UserError where a checkpoint has not all of them."""
    file = find_checkpoint(checkpoint).network
    try:
        rows = {row.name: row for row in tabulate(read_tensors(file))}
    except SparseError as error:
        raise UserError(f"{file}: {error}") from None
    for layer in layers:
        if layer not in rows:
            raise UserError(f"{file}: is of another network than the run, whose layer {layer} it does not have")
    return {layer: Size(rows[layer].total, rows[layer].active) for layer in layers}


# ---------------------------------------------------------------------------------------------------------------------
# Runs that each went on from the one before.


def join(files: Sequence[str]) -> dict[str, Any]:
    """One report of those on several runs, in their order, with the sizes of the last."""
    reports = [report_to_join(file) for file in files]
    layers = [layer["layer"] for layer in reports[0]["layers"]]
    for file, report in zip(files, reports, strict=True):
        if [layer["layer"] for layer in report["layers"]] != layers:
            raise UserError(f"{file}: is of another network than {files[0]}: its layers are others")
    begins = accumulate((report["step"] for report in reports[:-1]), initial=0)
    updates = [begin + step for begin, report in zip(begins, reports, strict=True) for step in report["updates"]]
    densities = {
        layer: [density for report in reports for density in report["layers"][n]["density"]]
        for n, layer in enumerate(layers)
    }
    sizes = {layer["layer"]: size_of(layer) for layer in reports[-1]["layers"]}
    runs = " + ".join(dict.fromkeys(report["run"] for report in reports))
    return describe(runs, reports[-1]["checkpoint"], updates, densities, sizes, sum(r["step"] for r in reports))


def size_of(layer: dict[str, Any]) -> Size:
    return Size(layer["weights"], round(layer["checkpoint"] * layer["weights"]))


def report_to_join(file: str | Path) -> dict[str, Any]:
    """A report on a run with a checkpoint, without which nobody knows where the run ended."""
    report = read_report(file, "layer_density")
    if report["step"] is None:
        raise UserError(f"{file}: has no checkpoint, to tell where the run ended: make it again with -r")
    return report


# ---------------------------------------------------------------------------------------------------------------------
# The parts of the network.


def parts_of(layers: Iterable[str]) -> dict[str, list[str]]:
    """{part: its layers}, from the image to the prediction; what is none of these comes last, by its first name."""
    coarsest = max((int(layer.split(".")[2]) for layer in layers if layer.startswith("decoder.levels.")), default=0)
    places = {layer: place_of(layer.split("."), coarsest) for layer in layers}
    parts = {}
    for _, _, part in sorted(set(places.values())):
        parts[part] = [layer for layer, place in places.items() if place[2] == part]
    return parts


def place_of(layer: list[str], coarsest: int) -> tuple[int, int, str]:
    """(rank, rank within it, part) of a layer, given as the names on the way to it; levels count from the finest."""
    match layer:
        case ["lr_encoder", *_]:
            return 0, 0, "LR encoder"
        case ["conditioning", *_]:
            return 1, 0, "conditioning"
        case ["embedding", *_]:
            return 2, 0, "noise embedding"
        case ["encoder", "input", *_]:
            return 3, 0, "encoder, level 0"
        case ["encoder", "levels" | "downsamples", level, *_]:
            return 3, int(level), f"encoder, level {level}"
        case ["encoder", *_]:
            return 4, 0, "encoder, middle"
        case ["decoder", "levels", n, *_]:
            return 5, int(n), f"decoder, level {coarsest - int(n)}"
        case ["decoder", "upsamplers", *_]:
            return 6, 0, "implicit upsamplers"
        case ["decoder", *_]:
            return 5, coarsest, "decoder, level 0"
    return 7, 0, layer[0]


# ---------------------------------------------------------------------------------------------------------------------
# The report.


def describe(
    run: str,
    checkpoint: str | None,
    updates: list[int],
    densities: Densities,
    sizes: Mapping[str, Size],
    step: int | None = None,
) -> dict[str, Any]:
    """The densities of each layer, of each part and of all. step: of the checkpoint, if that is not in its name."""
    parts = parts_of(densities)
    rows = [describe_part(part, layers, densities, sizes) for part, layers in (parts | {"all": densities}).items()]
    return {
        "benchmark": "layer_density",
        "run": run,
        "checkpoint": checkpoint,
        "step": step or (step_of(checkpoint) if checkpoint else None),
        "updates": updates,
        "rows": rows,
        "layers": [
            {"layer": layer} | describe_part(part, [layer], densities, sizes)
            for part, layers in parts.items()
            for layer in layers
        ],
    }


def describe_part(
    part: str, layers: Collection[str], densities: Densities, sizes: Mapping[str, Size]
) -> dict[str, Any]:
    """Layers together: their density at each update (U,), and with sizes that of the checkpoint, and their share of all
    active weights (U,)."""
    row = {"part": part, "layers": len(layers), "weights": None, "checkpoint": None, "share": None}
    if not sizes:
        return row | {"density": np.mean([densities[layer] for layer in layers], axis=0).tolist()}
    weights, active = (sum(getattr(sizes[layer], of) for layer in layers) for of in ("total", "active"))
    own, every = (active_weights(some, densities, sizes) for some in (layers, densities))
    return row | {
        "weights": weights,
        "density": (own / weights).tolist(),
        "checkpoint": active / weights,
        "share": (own / every).tolist(),
    }


def active_weights(layers: Iterable[str], densities: Densities, sizes: Mapping[str, Size]) -> np.ndarray:
    """How many weights of the layers are active at each update (U,)."""
    return np.sum([sizes[layer].total * np.array(densities[layer]) for layer in layers], axis=0)


def title(report: dict[str, Any]) -> str:
    updates, layers = report["updates"], len(report["layers"])
    lines = [f"{report['run']}: {layers} layers, {len(updates)} updates, from step {updates[0]} to {updates[-1]}"]
    if report["checkpoint"]:
        lines.append("density: active share of the weights, after an update; share: that of all active weights")
        lines.append(f"sizes and the column checkpoint: step {report['step']} of {report['checkpoint']}")
    else:
        lines.append("density: mean over the layers, after an update; there is no checkpoint to tell their sizes")
    return "\n".join(lines)


def as_table(report: dict[str, Any]) -> str:
    rows = [row | ends("density", row) | ends("share", row, "_share") for row in report["rows"]]
    columns = [key for key in COLUMNS if rows[0][key] is not None]
    cells = [[row["part"], *(show(row[key], COLUMNS[key][1]) for key in columns)] for row in rows]
    return table(["", *(COLUMNS[key][0] for key in columns)], cells)


def ends(key: str, row: dict[str, Any], suffix: str = "") -> dict[str, Any]:
    """What a row tells of the first and of the last update."""
    first, last = (row[key][0], row[key][-1]) if row[key] else (None, None)
    return {f"first{suffix}": first, f"last{suffix}": last}


def picture(report: dict[str, Any]) -> Figure:
    """Layers by parts, from the image to the prediction, over the steps of training: the darker, the denser. Colours
    follow the root, so that small densities differ too."""
    parts = report["rows"][:-1]
    heights = [max(part["layers"], LEAST_ROWS) for part in parts]
    height = 1.6 + sum(heights) * min(0.04, 8 / sum(heights))
    figure, all_axes = new_picture(height=height, nrows=len(parts), sharex=True, squeeze=False, height_ratios=heights)
    figure.set_layout_engine("constrained", h_pad=0.02, hspace=0)
    edges = step_edges(report["updates"])
    densest = max(max(layer["density"]) for layer in report["layers"])
    ticks = [0, *(tick for tick in TICKS if tick < densest), next(tick for tick in TICKS if tick >= densest)]
    norm = PowerNorm(0.5, 0, ticks[-1])
    for part, axes in zip(parts, all_axes[:, 0], strict=True):
        layers = [layer["density"] for layer in report["layers"] if layer["part"] == part["part"]]
        shades = axes.pcolormesh(edges, range(len(layers) + 1), layers, norm=norm, cmap="magma_r")
        axes.invert_yaxis()
        axes.set(yticks=[])
        axes.tick_params(bottom=axes is all_axes[-1, 0])
        axes.grid(visible=False)
        axes.set_ylabel(part["part"], rotation=0, ha="right", va="center")
        axes.annotate(note(part), (1, 0.5), (6, 0), "axes fraction", "offset points", va="center", color=PALE)
    all_axes[-1, 0].set_xlabel("training step")
    all_axes[-1, 0].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    heading = f"{Path(report['run']).resolve().name}: density of each layer after each update of the masks"
    figure.suptitle(heading, x=0.01, ha="left")
    label = "density (beside a part: of all of its weights, at first and at last)"
    figure.colorbar(shades, ax=all_axes, label=label, ticks=ticks, format="%g", aspect=40, pad=0.12)
    return figure


def step_edges(updates: list[int]) -> list[int]:
    """Where the columns of the picture begin and end: masks last from an update to the next, the last as long as those
    before it."""
    last = updates[-1] - updates[-2] if len(updates) > 1 else 1
    return [*updates, updates[-1] + last]


def note(row: dict[str, Any]) -> str:
    first, last = ends("density", row).values()
    return f"{first * 100:.0f} to {last:.0%}"
