"""What the benchmarks tell: the device in words, figures and their targets, a table, a JSON file."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import Any

import torch

from core.device import describe, versions
from core.errors import UserError
from core.log import TerminalHandler
from core.report.json_files import read_json, write_json
from core.summary.text_table import aligned

Target = tuple[str, float]  # "≤" or "≥", and the number
Figure = tuple[str, str, Target | None]  # what a number is, how it is written, its target

LIBRARIES = ("numpy", "pillow", "lmdb")


def matching(names: Iterable[str], patterns: str, refusal: Callable[[str], str]) -> list[str]:
    """The names that fit any of some patterns, as in "ddim50*,dpm++*", in their own order.

    Raises UserError where a pattern fits none, with what refusal(pattern) says.
    """
    asked = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in asked:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(refusal(pattern))
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in asked)]


def start_log(name: str) -> logging.Logger:
    """A logger whose lines go to the terminal, beside a progress bar."""
    log = logging.getLogger(name)
    log.propagate = False
    log.setLevel(logging.INFO)
    log.handlers = [TerminalHandler()]
    return log


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median of repeated measurements, with the extremes."""
    return {"median": median(values), "least": min(values), "most": max(values)}


def environment(device: torch.device) -> dict[str, Any]:
    """Where something was measured, for a report."""
    told: dict[str, Any] = versions(LIBRARIES)
    if device.type == "cuda":
        told |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"device": describe(device), "versions": told}


def describe_figures(
    figures: Mapping[str, Figure], values: Mapping[str, float | None], comparable: bool
) -> dict[str, dict[str, Any]]:
    """{figure: its value, target, and whether that is met} of {figure: (label, form, target)} and {figure: value}."""
    told = {}
    for name, (label, form, target) in figures.items():
        value, unit = values[name], form.split("} ")[1]
        met = verdict(value, target, comparable)
        told[name] = {"label": label, "value": value, "unit": unit, "target": target and target[1], "met": met}
    return told


def figure_rows(figures: Mapping[str, Figure], told: Mapping[str, dict[str, Any]], columns: int) -> Iterator[list[str]]:
    """The described figures that have a value as rows of so many columns, the target in the last."""
    for name, (label, form, target) in figures.items():
        value, unit, met = (told[name][key] for key in ("value", "unit", "met"))
        if value is not None:
            yield [label, form.format(value), *[""] * (columns - 3), goal(target, unit, met)]


def verdict(value: float | None, target: Target | None, comparable: bool = True) -> bool | None:
    """Whether a value meets its target, ("≤" or "≥", number); None without one, or where it is for another case."""
    if value is None or target is None or not comparable:
        return None
    sign, limit = target
    return value <= limit if sign == "≤" else value >= limit


def goal(target: Target | None, unit: str, met: bool | None) -> str:
    """A target and its verdict as text; nothing without one."""
    if target is None:
        return ""
    words = {None: "", True: ", met", False: ", missed"}
    return f"{target[0]} {target[1]} {unit}{words[met]}"


def without_bicubic(measures: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(measures of the result, measures of bicubic enlargement by the same names)"""
    bicubic = {key: value for key, value in measures.items() if key.startswith("bicubic_")}
    rest = {key: value for key, value in measures.items() if key not in bicubic}
    return rest, {key.removeprefix("bicubic_"): value for key, value in bicubic.items()}


def show(value: Any, form: str) -> str:
    """A number as text; nothing where there is none."""
    return "" if value is None else form.format(value)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lists of texts as one aligned text; the first column is flush left, the others flush right."""
    lines = aligned([header, *rows])
    lines.insert(1, "─" * max(map(len, lines)))
    return "\n".join(lines)


def read_report(file: str | Path, benchmark: str) -> dict[str, Any]:
    """A report that a benchmark wrote. Raises UserError where the file is none."""
    report = read_json(file)
    if not isinstance(report, dict) or report.get("benchmark") != benchmark:
        raise UserError(f"{file}: not a report of benchmarks/{benchmark}.py")
    return report


def publish(title: str, text: str, report: dict[str, Any], file: str | Path) -> None:
    """Prints the table under its title, and writes the report."""
    write_json(report, file)
    print(f"{title}\n\n{text}\n\nwritten to {file}")
