"""How benchmarks/feature_similarity.py measures, and what it reports."""

import math
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from benchmarks.helpers.pictures import make_logarithmic, new_picture, save
from benchmarks.helpers.reports import environment, publish, show, start_log, table
from benchmarks.helpers.trained_network import config_of, load
from core.calibrate.calibration import LRImage, images_of_files, too_large
from core.checkpoint.files import load_network, step_of
from core.config import Config
from core.config.sections import SampleSection
from core.device import autocast, out_of_memory_said, pick_device, precision_on
from core.inference.result_sizes import target_size
from core.network_size import active_share, parameter_count
from core.processes import Processes
from core.sampling.super_resolution import sampling_settings
from core.validation import batches
from model.conditioning import relative_scale
from model.network import Network
from model.sampling.calibration import Feature, chain_features, cosine_similarity, relative_distance

APART = (1, 2, 5, 10)  # steps between those that the table compares
HALVES = {"encoder": ("skip", "bottleneck"), "decoder": ("decoder",)}  # of the UNet -> their parts


class Similarity(NamedTuple):
    """How like each other a feature, or the mean of several, is at any two of T steps: float64 (T, T) each."""

    change: torch.Tensor
    cosine: torch.Tensor


Similarities = dict[tuple[str, str], Similarity]  # (half of the UNet, where in it) -> how like itself it is


def answer(arguments: Namespace) -> None:
    """Measures what the command line asks for, prints the table, writes the report and the picture."""
    processes = Processes(0, 1, pick_device(arguments.device))
    network, config, images = load_inputs(arguments, processes.device)
    settings = sampling_settings(config, {"solver": arguments.solver})
    measured = []
    for (n,) in batches(range(len(images)), 1, "feature similarity", processes, start_log("feature similarity")):
        seeded = settings.replace(seed=settings.seed + n)
        timesteps, similarities = measure(network, images[n], seeded, config.magnification, arguments.steps)
        measured.append(similarities)
    similarities = {place: mean([image[place] for image in measured]) for place in measured[0]}
    report = describe(network, config, images, settings, arguments)
    report |= {"timesteps": timesteps, "rows": rows_of(similarities)}
    save(picture(report), arguments.plot)
    publish(title(report), as_table(report), report, arguments.json)
    print(f"the change along the chain as a picture: {arguments.plot}")


def load_inputs(arguments: Namespace, device: torch.device) -> tuple[Network, Config, list[LRImage]]:
    """The network, its config, and the LR images of the command line."""
    if arguments.input:
        config = config_of(arguments)
        network, config = load_network(arguments.checkpoint, device, config)
        return network, config, images_of_files(arguments.input, arguments.images)
    with TemporaryDirectory() as folder:
        setting = load(arguments, Path(folder))
    images = [LRImage(sample["name"], sample["lr"]) for sample in setting.samples]
    return setting.network, setting.config, images


# ---------------------------------------------------------------------------------------------------------------------
# What is measured.


def measure(
    network: Network, image: LRImage, settings: SampleSection, factor: float, steps: int
) -> tuple[tuple[int, ...], Similarities]:
    """The timesteps of the chain and {place: Similarity} of one image.

    A place is (half of the UNet, where in it): "" for the whole half, "1/2" for the features of half the image's side,
    "bottleneck". Raises UserError where the memory is too small.
    """
    device = next(network.parameters()).device
    lr = image.pixels[None].to(device)
    size = target_size((lr.shape[-2], lr.shape[-1]), factor)
    chain = {key: settings[key] for key in ("solver", "seed", "consistency")}
    with out_of_memory_said(too_large(image, size)), autocast(device, settings.precision, sampling=True):
        scale = relative_scale(size, lr.shape[-2:], factor)
        timesteps, features = chain_features(network, lr, size, steps, scale=scale, **chain)
    return timesteps, by_place(features)


def by_place(features: Iterable[Feature]) -> Similarities:
    """Features -> {place: Similarity}, in the order of the network, each half before its levels."""
    similarities: dict[tuple[str, str], list[Similarity]] = {}
    for half, parts in HALVES.items():
        of_half = similarities[half, ""] = []
        for feature in features:
            if feature.part in parts:
                similarity = Similarity(relative_distance(feature.steps), cosine_similarity(feature.steps))
                of_half.append(similarity)
                similarities.setdefault((half, where(feature)), []).append(similarity)
    return {place: mean(several) for place, several in similarities.items()}


def where(feature: Feature) -> str:
    """Of a feature within its half of the UNet: "bottleneck", or the share of the image's side that it has."""
    if feature.part == "bottleneck":
        return "bottleneck"
    return f"1/{2**feature.level}" if feature.level else "full size"


def mean(similarities: Iterable[Similarity]) -> Similarity:
    return Similarity(*(torch.stack(matrices).mean(dim=0) for matrices in zip(*similarities, strict=True)))


# ---------------------------------------------------------------------------------------------------------------------
# The report.


def describe(
    network: Network, config: Config, images: Sequence[LRImage], settings: SampleSection, arguments: Namespace
) -> dict[str, Any]:
    """What is measured, where and how."""
    device, precision = next(network.parameters()).device, settings.precision
    return {
        "benchmark": "feature_similarity",
        **environment(device),
        "config": config.name,
        "checkpoint": arguments.checkpoint,
        "step": step_of(arguments.checkpoint) if arguments.checkpoint else None,
        "parameters": parameter_count(network),
        "density": active_share(network),
        "data": arguments.input or config.datasets[arguments.data].name,
        "images": [image.name for image in images],
        "solver": settings.solver,
        "consistency": settings.consistency,
        "seed": settings.seed,
        "precision": precision_on(device, precision),
    }


def rows_of(similarities: Similarities) -> list[dict[str, Any]]:
    """For each place the change and the cosine from every step to the next (T - 1), and of steps further apart the
    means over the chain."""
    rows = []
    for (half, place), similarity in similarities.items():
        apart = [n for n in APART if n < len(similarity.change)]
        rows.append(
            {
                "half": half,
                "place": place,
                "change": similarity.change.diagonal(1).tolist(),
                "cosine": similarity.cosine.diagonal(1).tolist(),
                "change_apart": {str(n): fmean(similarity.change.diagonal(n).tolist()) for n in apart},
                "cosine_apart": {str(n): fmean(similarity.cosine.diagonal(n).tolist()) for n in apart},
            }
        )
    return rows


def title(report: dict[str, Any]) -> str:
    weights = f"step {report['step']} of {report['checkpoint']}" if report["checkpoint"] else "random weights"
    lines = [
        f"{report['config']}: {report['parameters']:,} parameters, {report['density']:.0%} of them active, {weights}",
        f"{chain_in_words(report)}, in {report['precision']} on {report['device']}",
        "change, n: |a - b|² / |a|² of features n steps apart; 1 - cos: of the same; means over the chain",
    ]
    return "\n".join(lines)


def chain_in_words(report: dict[str, Any]) -> str:
    images = len(report["images"])
    return f"{len(report['timesteps'])} steps of {report['solver']}, {images} image{'s' * (images > 1)}"


def as_table(report: dict[str, Any]) -> str:
    """A line for each place; of both halves first, then of the levels."""
    rows = sorted(report["rows"], key=lambda row: row["place"] != "")
    apart = list(rows[0]["change_apart"])
    header = ["", *(f"change, {n}" for n in apart), *(f"1 - cos, {n}" for n in apart)]
    cells = []
    for row in rows:
        changes = [show(row["change_apart"][n], "{:.2e}") for n in apart]
        cosines = [show(1 - row["cosine_apart"][n], "{:.2e}") for n in apart]
        cells.append([f"{row['half']} {row['place']}", *changes, *cosines])
    return table(header, cells)


def picture(report: dict[str, Any]) -> Figure:
    """The change from each step to the next over the timestep, in the order of the chain: a panel for each half of the
    UNet, its mean bold, its levels the darker, the coarser."""
    figure, both = new_picture(9.0, 4.8, ncols=2, sharex=True, sharey=True)
    places = list(dict.fromkeys(row["place"] for row in sorted(report["rows"], key=fineness)))
    shades = dict(zip(places, colormaps["viridis_r"](np.linspace(0, 1, len(places))), strict=True))
    for half, axes in zip(HALVES, both, strict=True):
        for row in sorted((row for row in report["rows"] if row["half"] == half), key=fineness):
            style = {"color": shades[row["place"]]} if row["place"] else {"color": "black", "linewidth": 3}
            axes.plot(report["timesteps"][1:], row["change"], label=row["place"] or "mean", **style)
        axes.set(xlabel="timestep, from noise to image", title=half)
        axes.legend(loc="best")
    both[0].set_ylabel("relative squared change to the next step")
    both[0].invert_xaxis()
    make_logarithmic(both[0], "y")
    heading = f"{report['config']}: change of the features from a step to the next; {chain_in_words(report)}"
    figure.suptitle(heading, x=0.01, ha="left")
    return figure


def fineness(row: dict[str, Any]) -> float:
    """Levels from the finest to the coarsest, the bottleneck after them, and the mean of all last, over them."""
    ends = {"full size": 0, "bottleneck": 1e9, "": math.inf}
    return ends[row["place"]] if row["place"] in ends else int(row["place"].removeprefix("1/"))
