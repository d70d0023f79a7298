"""Runs: validations and scores, read back from the files that they wrote, image by image."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.report.json_files import read_json
from data.paths import is_file, is_folder, refuse_unseen

PLACES = ("", "metrics.json", "results/metrics.json")  # of the JSON file in what names a run
Measures = Mapping[str, float]


@dataclass(frozen=True)
class RunImage:
    """One image of a run."""

    name: str
    index: int  # its place in the run
    measures: Measures  # those that are finite numbers; of bicubic upsampling too, as "bicubic_psnr"
    files: Mapping[str, Path]  # "sr", "hr", "lr", "process": those that are there


@dataclass(frozen=True)
class Run:
    """A validation, or a score."""

    label: str
    report: Mapping[str, Any]  # what its JSON file holds
    images: Mapping[str, RunImage]  # by what the same image is called in other runs

    @classmethod
    def of(cls, label: str, report: Mapping[str, Any], folder: Path = Path()) -> "Run":
        """folder: where the JSON file is, beside which a validation keeps its pictures."""
        return cls(label, report, images_of(report, folder))

    def of_these(self, keys: Sequence[str]) -> "Run":
        return replace(self, images={key: self.images[key] for key in keys})


def read_runs(paths: Sequence[str | Path], labels: Sequence[str] = ()) -> list[Run]:
    """Runs that have images in common, each with these alone.

    A path is a JSON file of a validation or of core.score, a folder of results, or that of an experiment.
    labels: what the runs are called; without them, what tells them apart first: their configs, their folders, their
    paths. Raises UserError.
    """
    files = [find_report(path) for path in paths]
    reports = [read_report(file) for file in files]
    names = labels or labels_of(files, reports)
    runs = [Run.of(name, report, file.parent) for name, report, file in zip(names, reports, files, strict=True)]
    common = [key for key in runs[0].images if all(key in run.images for run in runs)]
    if not common:
        problem = "has no images" if len(runs) == 1 else f"has no image, by its name, in common with {files[-1]}"
        raise UserError(f"{files[0]} {problem}")
    return [run.of_these(common) for run in runs]


def find_report(path: str | Path) -> Path:
    """The JSON file of a run."""
    found = next((file for file in (Path(path, place) for place in PLACES) if is_file(file)), None)
    if found is None:
        refuse_unseen(path)
        problem = "no metrics.json in it, nor in results/" if is_folder(path) else "no such file or folder"
        raise UserError(f"{path}: {problem}; give what sr.py -p val or core.score --json wrote")
    return found


def read_report(file: Path) -> dict[str, Any]:
    report = read_json(file)
    entries = report.get("per_image") if isinstance(report, dict) else None
    parts = ("mean", "missing", "of_sets")
    if (
        not isinstance(entries, list)
        or not all(isinstance(entry, dict) and "name" in entry for entry in entries)
        or not all(isinstance(report.get(part), dict) for part in parts)
    ):
        raise UserError(f"{file}: no report of sr.py -p val or of core.score --json")
    return report


def images_of(report: Mapping[str, Any], folder: Path) -> dict[str, RunImage]:
    """The images of a run, by the name of the true image, or by their own where several have that."""
    images = {}
    keys = [Path(str(entry.get("hr", entry["name"]))).stem for entry in report["per_image"]]
    if len({*keys}) < len(keys):
        keys = [f"{key} {number}" for number, key in enumerate(keys)]
    for number, (key, entry) in enumerate(zip(keys, report["per_image"], strict=True)):
        measures = {name: float(value) for name, value in entry.items() if is_measure(name, value)}
        there = {kind: path for kind, path in files_of(entry, report, folder).items() if is_file(path)}
        images[key] = RunImage(str(entry["name"]), number, measures, there)
    return images


def is_measure(name: str, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and name not in ("index", "seed")


def files_of(entry: Mapping[str, Any], report: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Where the pictures of an image should be: a validation tells their folders, a score each file."""
    folders = report.get("files")
    if not isinstance(folders, dict):
        return {kind: Path(entry[kind]) for kind in ("sr", "hr", "lr") if isinstance(entry.get(kind), str)}
    stem = f"{report.get('step')}_{entry.get('index')}"
    endings = {"sr": "_sr.png", "hr": "_hr.png", "lr": "_lr.png", "process": "_sr_process.png"}
    return {kind: folder / str(folders[kind]) / (stem + ending) for kind, ending in endings.items() if kind in folders}


def labels_of(files: Sequence[Path], reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to call the runs."""
    configs = [str(report.get("config") or report.get("sr") or "") for report in reports]
    folders = [file.parent.resolve() for file in files]
    folders = [folder.parent if folder.name == "results" else folder for folder in folders]
    shared = os.path.commonpath(folders) if len(folders) > 1 else folders[0].parent
    ways = (
        [Path(config).name for config in configs],
        configs,
        [os.path.relpath(folder, shared) for folder in folders],
        [str(file) for file in files],
    )
    return next((way for way in ways if all(way) and len({*way}) == len(way)), list(ways[-1]))
