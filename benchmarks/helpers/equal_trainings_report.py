"""What equal_trainings.py tells: its report, how its rows compare, how the reports of several processes are joined."""

import hashlib
import logging
import math
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.helpers.comparison import Comparison
from benchmarks.helpers.reports import environment, read_report, show, table, without_bicubic
from core.config import Config
from core.errors import UserError
from core.metrics.perceptual_metrics import Lpips
from core.network_size import parameter_count
from core.processes import Processes
from core.sampling.super_resolution import Sampling
from data import SRDataset
from model import build_network

Losses = Mapping[str, Sequence[float]]  # validation set -> the loss of each of its images

EQUAL = ("benchmark", "config", "steps", "noise_levels", "images", "data", "settings")  # in reports that can be merged
# How data are read, not what they are.
PLACES = ("dataroot", "hr_dataroot", "lr_dataroot", "datatype", "num_workers", "use_shuffle")


@dataclass(frozen=True)
class Setting:
    """What the variants share."""

    config: Config
    sets: dict[str, SRDataset]  # key of a validation set -> SRDataset
    images: int  # of each of them that are sampled
    saved: Path | None  # where these go, if they are kept
    lpips: Lpips | None  # where it can be measured here
    processes: Processes
    log: logging.Logger


# ---------------------------------------------------------------------------------------------------------------------
# The report.


def describe(comparison: Comparison, setting: Setting, arguments: Namespace, noise_levels: int) -> dict[str, Any]:
    """What is measured, where and how."""
    config, network = setting.config, build_network(setting.config.model, initialised=False)
    return {
        "benchmark": comparison.name,
        **environment(setting.processes.device),
        "config": config.name,
        "overrides": arguments.overrides,
        "parameters": parameter_count(network),
        "prunable": sum(parameter.numel() for parameter in network.prunable_parameters().values()),
        "steps": config.train.n_iter,
        "noise_levels": noise_levels,
        "images": setting.images,
        "data": describe_data(setting),
        "settings": {section: config[section].to_dict() for section in ("model", "train", "sparse", "sample")},
        "sampling": Sampling.of(config.sample, network.schedule).describe(),
        "left_out": {},
        "bicubic": None,
        "rows": [],
    }


def describe_data(setting: Setting) -> dict[str, dict[str, Any]]:
    """{set: its section of the config, how many images it has, a digest of their names; for validation, pixels too}."""
    specs = setting.config.datasets
    train = SRDataset(specs["train"], train=True)
    told = {"train": {"number": len(train), "sha256": digest(names_of(train))}}
    for key, dataset in setting.sets.items():
        pixels = (sample[kind].numpy().tobytes() for sample in dataset_in_order(dataset) for kind in ("lr", "hr"))
        told[key] = {"number": len(dataset), "sha256": digest(names_of(dataset), pixels)}
    return {key: {**specs[key], **found} for key, found in told.items()}


def names_of(dataset: SRDataset) -> list[str]:
    return [dataset.store.names[index] for index in dataset.indices]


def dataset_in_order(dataset: SRDataset) -> Iterator[dict[str, Any]]:
    return (dataset[index] for index in range(len(dataset)))


def digest(names: Iterable[str], contents: Iterable[bytes] = ()) -> str:
    """SHA-256 of texts, and of what follows them, as hexadecimal digits."""
    state = hashlib.sha256("\0".join(names).encode())
    for content in contents:
        state.update(content)
    return state.hexdigest()


def title(report: dict[str, Any]) -> str:
    train, bicubic = report["data"]["train"], report["bicubic"]
    sets = ", ".join(f"{spec['name']} ({spec['number']})" for key, spec in report["data"].items() if key != "train")
    images = train["batch_size"] * report["settings"]["train"]["accumulate"]
    lines = [
        f"{report['config']}: {report['parameters']:,} parameters, {report['prunable']:,} of them prunable; "
        f"{report['steps']:,} steps of {images} images on {report['device']}",
        f"{train['name']} ({train['number']} images), {train['l_resolution']} → {train['r_resolution']}; "
        f"validation on {sets}",
        f"val loss: EMA weights, each image at {report['noise_levels']} noise levels; beside it the paired difference "
        "and its standard error over images",
        f"PSNR, SSIM: of at most {report['images']} images of a set, {report['sampling']}",
        f"of bicubic upsampling: {bicubic['psnr']:.2f} dB, {bicubic['ssim']:.4f}"
        + (f", LPIPS {bicubic['lpips']:.4f}" if bicubic.get("lpips") is not None else ""),
        "train loss: of the last tenth of the steps; minutes: of training",
    ]
    lines += [f"left out: {name} ({reason})" for name, reason in report["left_out"].items()]
    return "\n".join(lines)


def as_table(comparison: Comparison, report: dict[str, Any]) -> str:
    rows = report["rows"]
    columns = {key: column for key, column in comparison.columns.items() if any(key in row for row in rows)}
    cells = [[row["variant"], *(show(row.get(key), form) for key, (_, form) in columns.items())] for row in rows]
    return table(["", *(name for name, _ in columns.values())], cells)


# ---------------------------------------------------------------------------------------------------------------------
# What is compared.


def add_row(comparison: Comparison, report: dict[str, Any], row: dict[str, Any]) -> None:
    """A variant with its measures, and all rows compared anew. What is said of bicubic is the same for all of them."""
    own, report["bicubic"] = without_bicubic(row)
    report["rows"].append(own)
    compare(report["rows"], comparison.reference)


def compare(rows: list[dict[str, Any]], reference: str) -> None:
    """Adds to each row how far its loss is above that of the reference, if that is there, and the standard error."""
    other = next((row for row in rows if row["variant"] == reference), None)
    for row in rows:
        pair = paired_difference(row["losses"], other["losses"]) if other else (None, None)
        row["difference"], row["difference_error"] = pair


def paired_difference(losses: Losses, others: Losses) -> tuple[float, float | None]:
    """(mean, its standard error) of losses - others, {set: [loss of each image]}; no error for a single image."""
    differences = [
        loss - other for key in losses for loss, other in zip(losses[key], others[key], strict=True)
    ]  # the same images in the same order
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None
    return fmean(differences), error


def merge(comparison: Comparison, files: Sequence[str], log: logging.Logger) -> dict[str, Any]:
    """The rows of several reports as one, compared anew; a variant that several have is taken from the first."""
    reports = [read_report(file, comparison.name) for file in files]
    merged = reports[0]
    rows: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    for file, report in zip(files, reports, strict=True):
        refuse_other_setting(merged, report, files[0], file)
        for row in report["rows"]:
            if row["variant"] in rows:
                log.info(f"{row['variant']}: not taken from {file}, as a report before it has it too")
            rows.setdefault(row["variant"], row)
        left_out |= report["left_out"]
    merged["device"] = ", ".join(dict.fromkeys(report["device"] for report in reports))
    merged["left_out"] = {name: reason for name, reason in left_out.items() if name not in rows}
    order = {name: place for place, name in enumerate(comparison.variants)}
    merged["rows"] = sorted(rows.values(), key=lambda row: order.get(row["variant"], len(order)))
    compare(merged["rows"], comparison.reference)
    return merged


def refuse_other_setting(one: dict[str, Any], other: dict[str, Any], file: str, other_file: str) -> None:
    """One line where the variants of two reports were not trained and measured alike."""
    first, second = ({key: comparable(report[key]) for key in EQUAL} for report in (one, other))
    for key, value, another in differences(first, second):
        raise UserError(f"cannot merge {file} and {other_file}: {key} is {value} in the first, {another} in the other")


def comparable(value: Any) -> Any:
    """A value of a report without where its images lie: what they are is told by their digest."""
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items() if key not in PLACES}
    return value


def differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, value, other value) of all that is not the same in two nested dicts."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        if one != other:
            yield path.removeprefix("."), one, other
        return
    for key in one | other:
        yield from differences(one.get(key), other.get(key), f"{path}.{key}")
