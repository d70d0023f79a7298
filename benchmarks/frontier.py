"""What a way of sampling costs, in quality and in time, on trained weights: the frontier of the two.

python benchmarks/frontier.py -r CHECKPOINT                            on the validation set of its config
python benchmarks/frontier.py -r CHECKPOINT --chains 'ddim50*,dpm++*'  the chains whose names fit a pattern
python benchmarks/frontier.py --small                                  the demo's network with random weights: seconds

Every chain super-resolves the same images with the same noise. A chain is on the frontier unless another is as fast and
better. Speed-up and time saved are over the same steps without reuse, encoder and decoder at each of them, where that
chain is measured too. The report and the plot are written anew after each chain.
"""

import argparse
import logging
import math
import sys
import time
from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory

if not __package__:  # run as a script: import from the repository, whatever the working directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import nn

from benchmarks.common import environment, fill_defaults, free, publish, show, table
from core.checkpoint import find_checkpoint, load_network, read_network_file, step_of
from core.command_line import Parser, count
from core.config import check_config, load_config, parse_override
from core.config_file import read_file
from core.device import automatic_precision, pick_device, synchronize
from core.distributed import Distributed
from core.errors import UserError, one_line_errors
from core.inference import is_out_of_memory
from core.logging import TerminalHandler
from core.metrics import load_lpips
from core.plot import PALE, Series, plot
from core.report import write_json
from core.sampling import describe_sampling, executed_plan, super_resolve, trained_factor
from core.validation import batches, counted_density, measure, pictures_of
from data import SRDataset
from data.demo import make_demo
from data.images import save_png
from model import build_network
from model.plan import automatic

SOLVERS = {  # name -> (its settings, the K of uniform:K)
    "ddim50": ({"solver": "ddim", "steps": 50}, (2, 5, 10)),
    "ddim20": ({"solver": "ddim", "steps": 20}, (2, 5, 10)),
    "ddim10": ({"solver": "ddim", "steps": 10}, (2, 5, 10)),
    "dpm++20": ({"solver": "dpm++", "steps": 20}, (2, 5, 10)),
    "ddpm2000": ({"solver": "ddpm", "steps": 2000}, (2, 5, 10, 20, 50)),
}
REUSE = {  # what follows the name -> the settings, for each K
    "-u{}": {"key_steps": "uniform:{}"},
    "-u{}-ends": {"key_steps": "uniform:{}", "decode": "ends"},
    "-u{}-first": {"key_steps": "uniform:{}", "decode": "first"},
    "-auto{}": {"key_steps": "auto like uniform:{}"},  # auto:N, N as many key steps as uniform:K has
}
OF_REUSE = ("key_steps", "decode", "decode_batch")  # in all else a chain agrees with the one that it is compared with
LIKE = "auto like "  # before the key steps that tell N
DECODED = {"every": math.inf, "ends": 2, "first": 1}  # the most steps of a group that the decoder computes
NO_CALIBRATION = "the checkpoint has no calibration; to add it: python -m core.calibrate -r CHECKPOINT"

FULL = {"images": 32, "batch": 8, "chains": "*"}
SMALL = {"images": 3, "batch": 1, "chains": "ddim10-none,ddim10-u5*,ddim10-auto5"}
SHOWN = ("consistency", "start", "prior_noise", "eta")  # settings that the title tells where they are on
COLUMNS = {  # of the table: what it is called, how it is written
    "psnr": ("PSNR, dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "lpips": ("LPIPS", "{:.4f}"),
    "lr_mse": ("LR MSE", "{:.2e}"),
    "seconds": ("s/image", "{:.4g}"),
    "speed_up": ("speed-up", "{:.2f}"),
    "saved": ("time saved", "{:.1f} %"),
    "encoder_calls": ("encoder", "{}"),
    "decoder_calls": ("decoder", "{}"),
}
FRONTIERS = {"psnr": "on_frontier", "ssim": "on_ssim_frontier"}  # a measure -> the key of a row that marks its frontier


@one_line_errors()
def main():
    arguments = parse_arguments()
    log = start_log()
    with TemporaryDirectory() as folder:
        setting = load(arguments, Path(folder))
    chains, left_out = chains_of(arguments.chains, setting)
    for reason, names in by_reason(left_out).items():
        log.info(f"left out: {names} ({reason})")
    report = describe(setting, arguments) | {"left_out": left_out, "bicubic": None, "rows": []}
    lpips = load_lpips(setting.run.device, log)
    for number, (name, settings) in enumerate(chains.items(), start=1):
        try:
            measures = measure_chain(setting, settings, f"{number}/{len(chains)} {name}", lpips, log)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            left_out[name] = f"out of memory at batch {setting.batch}; see --batch"
            log.info(f"left out: {name} ({left_out[name]})")
            continue
        add_row(report, {"chain": name} | describe_chain(setting, settings), measures)
        write_json(report, arguments.json)
        save_plot(report, arguments.plot)
        log.info(f"{name}: {measures['psnr']:.2f} dB, {measures['seconds']:.4g} s/image")
    if not report["rows"]:
        raise UserError(f"no chain could be measured: {'; '.join(by_reason(left_out))}")
    publish(title(report), as_table(report), report, arguments.json)
    print(f"the frontier as a picture: {arguments.plot}")


def parse_arguments():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-r", "--checkpoint", help="a file, the PREFIX of PREFIX_gen.*, or a folder (its latest)")
    add("-c", "--config", metavar="FILE", help="a config (default: the checkpoint's own)")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    add("--data", default="val", metavar="KEY", help="the images: a section of datasets (default: val)")
    add("--images", type=count, metavar="N", help="the first so many of them (default: 32)")
    add("--batch", type=count, metavar="B", help="images of a batch (default: 8)")
    chains = (
        "patterns of names, as in 'ddim50*,ddpm2000-u10*', or a .yaml or .json file: {name: {key: value of sample}}"
    )
    add("--chains", metavar="NAMES", help=f"{chains} (default: all)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--small", action="store_true", help="few chains and images; without -r random weights, of config/demo.yaml")
    add("--json", default="experiments/benchmarks/frontier.json", metavar="FILE", help="where the report goes")
    add("--plot", default="experiments/benchmarks/frontier.png", metavar="FILE", help="where the picture goes")
    arguments = parser.parse_args()
    if arguments.checkpoint is None and not arguments.small:
        raise UserError("give a checkpoint with -r, or --small for random weights")
    return fill_defaults(arguments, SMALL if arguments.small else FULL)


def start_log():
    """Lines on the terminal, beside a progress bar."""
    log = logging.getLogger("frontier")
    log.propagate = False
    log.setLevel(logging.INFO)
    log.handlers = [TerminalHandler()]
    return log


# ---------------------------------------------------------------------------------------------------------------------
# What is measured.


@dataclass(frozen=True)
class Setting:
    """What the chains share."""

    network: nn.Module  # on the device, and never sampled: what sampling keeps, graphs and tables, goes with a copy
    config: dict
    samples: list  # of the dataset
    batch: int
    run: Distributed


def load(arguments, folder):
    """The network and the images of the command line; the demo's images, without a checkpoint, go to the folder."""
    run = Distributed(0, 1, pick_device(arguments.device))
    if arguments.checkpoint:
        config = config_of(arguments)
        network, config = load_network(arguments.checkpoint, run.device, config)
    else:
        make_demo(folder, count=1)
        flags = {"phase": "val", f"datasets.{arguments.data}.dataroot": str(folder / "val")}
        config = load_config(arguments.config or "config/demo.yaml", arguments.overrides, flags)
        torch.manual_seed(0)
        network = build_network(config["model"]).to(run.device).eval()
    if arguments.data not in config["datasets"]:
        raise UserError(f"--data {arguments.data}: no such set in the config; it has {', '.join(config['datasets'])}")
    dataset = SRDataset(config["datasets"][arguments.data], train=False)
    samples = [dataset[index] for index in range(min(arguments.images, len(dataset)))]
    return Setting(network, config, samples, min(arguments.batch, len(samples)), run)


def config_of(arguments):
    """The config of the command line, to validate with: of the file, or else of the checkpoint, with the overrides."""
    if arguments.config:
        return load_config(arguments.config, arguments.overrides, {"phase": "val"})
    config = deepcopy(read_network_file(find_checkpoint(arguments.checkpoint).network).config) | {"phase": "val"}
    for override in arguments.overrides:
        path, value = parse_override(override, config)
        *sections, name = path.split(".")
        reduce(lambda section, key: section.setdefault(key, {}), sections, config)[name] = value
    return check_config(config, str(arguments.checkpoint), for_run=True)


def chains_of(asked, setting):
    """({name: whole settings}, {name: why it is left out}) of --chains."""
    chains, left_out = {}, {}
    for name, changes in named_chains(asked).items():
        settings = setting.config["sample"] | changes
        most, change = setting.network.schedule.n_timestep, setting.network.encoder_change
        if isinstance(settings["steps"], int) and settings["steps"] > most:
            left_out[name] = f"the schedule has {most} timesteps"
            continue
        settings = checked(setting, name, settings | {"key_steps": automatic_keys(settings, setting)})
        if change is None and automatic(settings["key_steps"]):
            left_out[name] = NO_CALIBRATION
        else:
            chains[name] = settings
    if not chains:
        raise UserError(f"--chains {asked}: none can be measured: {'; '.join(by_reason(left_out))}")
    return chains, left_out


def named_chains(asked):
    """{name: changes to the settings} of --chains."""
    if Path(asked).suffix in (".yaml", ".yml", ".json"):
        chains = read_file(asked)
        if not isinstance(chains, dict) or not all(isinstance(changes, dict) for changes in chains.values()):
            raise UserError(f"{asked}: must be names of chains, each with keys of `sample` and their values")
        return chains
    every, patterns = default_chains(), [pattern.strip() for pattern in asked.split(",")]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in every):
            raise UserError(f"--chains {pattern}: no chain has such a name; there are {', '.join(every)}")
    return {name: every[name] for name in every if any(fnmatchcase(name, pattern) for pattern in patterns)}


def default_chains():
    """{name: what it changes in the settings}"""
    chains = {}
    for name, (solver, lengths) in SOLVERS.items():
        chains[f"{name}-none"] = solver | {"key_steps": "none", "decode": "every"}
        for k in lengths:
            for suffix, reuse in REUSE.items():
                changes = {key: value.format(k) for key, value in reuse.items()}
                chains[name + suffix.format(k)] = solver | {"decode": "every"} | changes
    return chains


def automatic_keys(settings, setting):
    """The key steps of the settings; of "auto like" others, auto:N with as many encoder calls."""
    keys = settings["key_steps"]
    if not (isinstance(keys, str) and keys.startswith(LIKE)):
        return keys
    like = settings | {"key_steps": keys.removeprefix(LIKE)}
    return f"auto:{len(executed_plan(like, setting.network.schedule).key_steps)}"


def checked(setting, name, settings):
    return check_config(setting.config | {"sample": settings}, f"chain {name}")["sample"]


def by_reason(left_out):
    """{name: why} -> {why: names}"""
    reasons = defaultdict(list)
    for name, reason in left_out.items():
        reasons[reason].append(name)
    return {reason: ", ".join(names) for reason, names in reasons.items()}


def measure_chain(setting, settings, label, lpips, log):
    """The means of what `core.validation.measure` gives, each image's measures, and the seconds an image takes."""
    free()  # what the chain before took
    network = deepcopy(setting.network)
    network.encoder_change = setting.network.encoder_change  # the same object: plans are kept by it
    entries, seconds = [], []
    for indices in batches(range(len(setting.samples)), setting.batch, label, setting.run, log):
        samples = [setting.samples[index] for index in indices]
        sr, taken = sample_batch(network, setting, settings, samples)
        if len(samples) == setting.batch:  # a smaller last one is captured anew, and slower for each image
            seconds.append(taken)
        entries += [measure(pictures_of(sample, image), lpips) for sample, image in zip(samples, sr, strict=True)]
    if len(seconds) == 1:
        seconds.append(sample_batch(network, setting, settings, setting.samples[: setting.batch])[1])
    return {
        **{key: fmean(entry[key] for entry in entries) for key in entries[0]},
        "seconds": median(seconds[1:]),
        "first_seconds": seconds[0],
        "batch_seconds": seconds[1:],
        "per_image": [{key: value for key, value in e.items() if not key.startswith("bicubic_")} for e in entries],
    }


def sample_batch(network, setting, settings, samples):
    """(SR (B,3,H,W), seconds for each of its images)"""
    lr = torch.stack([sample["lr"] for sample in samples]).to(setting.run.device)
    seeds = [settings["seed"] + sample["index"] for sample in samples]
    synchronize(setting.run.device)
    began = time.perf_counter()
    sr = super_resolve(network, lr, samples[0]["hr"].shape[-2:], settings, seeds, trained_factor(setting.config))
    synchronize(setting.run.device)
    return sr, (time.perf_counter() - began) / len(samples)


# ---------------------------------------------------------------------------------------------------------------------
# What is compared.


def add_row(report, chain, measures):
    """A chain with its measures, and all rows compared anew. What is said of bicubic is the same for every chain."""
    bicubic = {key: value for key, value in measures.items() if key.startswith("bicubic_")}
    report["bicubic"] = {key.removeprefix("bicubic_"): value for key, value in bicubic.items()}
    rows = report["rows"]
    rows.append(chain | {key: value for key, value in measures.items() if key not in bicubic})
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
# The report.


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


def save_plot(report, file):
    """Seconds against PSNR: a colour for each solver and number of steps, and the frontier as a line."""
    families = defaultdict(list)
    for row in report["rows"]:
        solver, steps = row["settings"]["solver"], row["settings"]["steps"] or row["steps"]
        name = row["chain"].removeprefix(f"{solver}{steps}-")
        families[f"{solver}, {steps} steps"].append((row["seconds"], row["psnr"], name))
    best = sorted((row["seconds"], row["psnr"]) for row in report["rows"] if row["on_frontier"])
    series = [Series("frontier", best, line=True, markers=False, colour=PALE)]
    series += [Series(label, points) for label, points in families.items()]
    heading = f"{report['config']}: {report['images']} images, batches of {report['batch']}, {report['device']}"
    levels = [(report["bicubic"]["psnr"], "bicubic")]
    picture = plot(series, heading, "seconds per image", "PSNR, dB", log_x=True, levels=levels)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    save_png(picture, file)


if __name__ == "__main__":
    main()
