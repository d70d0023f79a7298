"""What benchmarks/frontier.py tells of the chains that it measured: compared, as a table, as pictures, and merged."""

import math
from collections import defaultdict
from pathlib import Path

from benchmarks.helpers.frontier_chains import by_reason, default_chains
from benchmarks.helpers.reports import environment, read_report, show, table
from core.checkpoint import step_of
from core.device import automatic_precision
from core.errors import UserError
from core.plot import PALE, Series, plot
from core.sampling import PRESETS, describe_sampling, executed_plan
from core.validation import counted_density
from data.images import save_png

OF_REUSE = ("key_steps", "decode", "decode_batch")  # in all else a chain agrees with the one that it is compared with
DECODED = {"every": math.inf, "ends": 2, "first": 1}  # the most steps of a group that the decoder computes
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
MOST_NAMED = 40  # chains whose names a picture shows; of more, those of the frontier alone
MERGED_IF_EQUAL = (
    "config", "checkpoint", "step", "parameters", "density", "calibrated", "dataset", "images", "batch", "precision",
    "settings", "device",
)  # fmt: skip
COMPUTED = ("speed_up", "saved")  # columns that are no measurements

# ---------------------------------------------------------------------------------------------------------------------
# What is told.


def describe(setting, arguments):
    """What is measured, where and how."""
    config, spec = setting.config, setting.config["datasets"][arguments.data]
    told = ("name", "dataroot", "hr_dataroot", "lr_dataroot", "l_resolution", "r_resolution")
    precision = config["sample"]["precision"]
    return {
        "benchmark": "frontier",
        **environment(setting.run.device),
        "config": config["name"],
        "checkpoint": arguments.checkpoint,
        "step": step_of(arguments.checkpoint) if arguments.checkpoint else None,
        "parameters": sum(parameter.numel() for parameter in setting.network.parameters()),
        "density": counted_density(setting.network),
        "calibrated": setting.network.encoder_change is not None,
        "dataset": {"key": arguments.data, **{name: spec[name] for name in told}},
        "images": len(setting.samples),
        "batch": setting.batch,
        "precision": automatic_precision(setting.run.device, True) if precision == "auto" else precision,
        "settings": config["sample"],
    }


def describe_chain(setting, settings):
    """What a chain does; of an image, in calls of the encoder and of the decoder for a single step."""
    schedule, change = setting.network.schedule, setting.network.encoder_change
    plan = executed_plan(settings, schedule, change)
    return {
        "label": describe_sampling(settings, schedule, change),
        "settings": settings,
        "steps": plan.steps,
        "key_steps": str(plan),
        "encoder_calls": len(plan.key_steps),
        "decoder_calls": sum(min(len(group), DECODED[settings["decode"]]) for group in plan.groups),
    }


# ---------------------------------------------------------------------------------------------------------------------
# What is compared.


def add_row(report, chain, measures):
    """A chain with its measures, and all rows compared anew. What is said of bicubic is the same for every chain."""
    bicubic = {key: value for key, value in measures.items() if key.startswith("bicubic_")}
    report["bicubic"] = {key.removeprefix("bicubic_"): value for key, value in bicubic.items()}
    report["rows"].append(chain | {key: value for key, value in measures.items() if key not in bicubic})
    compare(report["rows"])


def compare(rows):
    """Adds to each row what the others make of it: its chain without reuse, what it saves over that, the frontiers."""
    for row in rows:
        plain = next((other for other in rows if is_plain_of(other, row)), None)
        row["plain"] = plain and plain["chain"]
        row["speed_up"] = plain and plain["seconds"] / row["seconds"]
        row["saved"] = plain and 100 * (1 - row["seconds"] / plain["seconds"])
    for key, mark in FRONTIERS.items():
        for row, on in zip(rows, frontier([(row["seconds"], row[key]) for row in rows]), strict=True):
            row[mark] = on


def is_plain_of(other, row):
    """Whether another row is the same chain with its encoder, and so its decoder, at every step."""
    same = all(row["settings"][key] == value for key, value in other["settings"].items() if key not in OF_REUSE)
    return same and other["encoder_calls"] == other["steps"]


def frontier(points):
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


def merge(files):
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


def report_to_merge(file):
    """A report of frontier.py with rows. A measure that JSON has no number for is read as not a number."""
    report = read_report(file, "frontier")
    if not report.get("rows"):
        raise UserError(f"{file}: has no rows: no chain was measured")
    for measures in (report["bicubic"], *report["rows"]):
        unknown = [key for key in COLUMNS if key not in COMPUTED and measures.get(key, 0) is None]
        measures.update(dict.fromkeys(unknown, math.nan))
    return report


def differences(report, other):
    """What keeps two reports from being merged: "images (32, 16)", ..."""
    a, b = (flat({key: report.get(key) for key in MERGED_IF_EQUAL}) for report in (report, other))
    return [f"{name} ({a.get(name)}, {b.get(name)})" for name in a | b if a.get(name) != b.get(name)]


def flat(value, name=""):
    """Nested dicts as one, {"dataset.name": ...}."""
    if not isinstance(value, dict):
        return {name: value}
    return {path: leaf for key, item in value.items() for path, leaf in flat(item, f"{name}.{key}".strip(".")).items()}


# ---------------------------------------------------------------------------------------------------------------------
# What is read.


def title(report):
    weights = f"step {report['step']} of {report['checkpoint']}" if report["checkpoint"] else "random weights"
    data, on = report["dataset"], [name for name, value in report["settings"].items() if value and name in SHOWN]
    options = "".join(f", {name} {report['settings'][name]:g}" for name in on)
    lines = [
        f"{report['config']}: {report['parameters']:,} parameters, {report['density']:.0%} of them active, {weights}",
        f"{data['name']}, {data['l_resolution']} → {data['r_resolution']}: {report['images']} images, "
        f"batches of {report['batch']}{options}, in {report['precision']} on {report['device']}",
        "*: no chain is both as fast and better; speed-up, time saved: over the same steps without reuse",
        "s/image: median of the batches after the first; encoder, decoder: calls for an image",
    ]
    lines += [f"left out: {names} ({reason})" for reason, names in by_reason(report["left_out"]).items()]
    return "\n".join(lines)


def as_table(report):
    rows = ([{"chain": "bicubic"} | report["bicubic"]] if report["bicubic"] else []) + report["rows"]
    columns = [key for key in COLUMNS if any(key in row for row in rows)]
    cells = [[row["chain"], *(cell(row, key) for key in columns)] for row in rows]
    return table(["", *(COLUMNS[key][0] for key in columns)], cells)


def cell(row, key):
    """A measure as text, those of a frontier with a star."""
    star = ("*" if row.get(FRONTIERS[key]) else " ") if key in FRONTIERS else ""
    return show(row.get(key), COLUMNS[key][1]) + star


def save_plots(report, file):
    """Seconds against each measure of PLOTTED, as pictures -> their files: `file`, and others beside it."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    files = {key: file.with_stem(file.stem + ending) for key, (ending, _) in PLOTTED.items()}
    for key, path in files.items():
        save_png(plot_measure(report, key), path)
    return list(files.values())


def plot_measure(report, key):
    """Seconds against a measure: a colour for each solver and number of steps, and the frontier, if any, as a line.
    Where chains are too many to name, the presets and those on the frontier of PSNR have names in all pictures."""
    rows, families = shown_rows(report), defaultdict(list)
    for row in rows:
        solver, steps = row["settings"]["solver"], row["settings"]["steps"] or row["steps"]
        preset = preset_of(row["settings"])
        name = preset or row["chain"].removeprefix(f"{solver}{steps}-")
        named = preset or row["on_frontier"] or len(rows) <= MOST_NAMED
        families[f"{solver}, {steps} steps"].append((*point(row, key), *([name] if named else [])))
    best = sorted(point(row, key) for row in rows if row.get(FRONTIERS.get(key)))
    series = [Series("frontier" if len(best) > 1 else "", best, line=True, markers=False, colour=PALE)]
    series += [Series(label, points) for label, points in families.items()]
    heading = f"{report['config']}: {report['images']} images, batches of {report['batch']}, {report['device']}"
    levels = [(report["bicubic"].get(key, math.nan), "bicubic"), *filter(None, [PLOTTED[key][1]])]
    levels = [level for level in levels if math.isfinite(level[0])]
    hidden = len(report["rows"]) - len(rows)
    seconds = f"seconds per image (not drawn: {hidden} with less SSIM than bicubic)" if hidden else "seconds per image"
    return plot(series, heading, seconds, COLUMNS[key][0], log_x=True, levels=levels)


def shown_rows(report):
    """The chains that are worth a look: with as much SSIM as bicubic upsampling at least. All, where none has."""
    least = report["bicubic"].get("ssim", -math.inf)
    return [row for row in report["rows"] if not row["ssim"] < least] or report["rows"]


def preset_of(settings):
    """The preset of infer.py that samples as these settings do, or None."""
    return next((name for name, changes in PRESETS.items() if changes.items() <= settings.items()), None)


def point(row, key):
    return row["seconds"], row.get(key, math.nan)
