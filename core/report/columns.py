"""What a page compares: columns of measurements, bicubic upsampling and the runs, and the differences between them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from core.report.runs import Measures, Run, is_measure
from core.report.tables import ROWS, Measurement

CERTAIN = 2  # standard errors, from which a difference of means is told as better or worse


@dataclass(frozen=True)
class Column:
    """The measurements of one method on the images that all runs have in common."""

    label: str
    colour: str  # its class in the style sheet
    images: Sequence[Measures]
    of_sets: Measures  # of the set as a whole

    def values(self, key: str) -> np.ndarray:
        """A measurement of each image; not a number where there is none."""
        return np.array([image.get(key, math.nan) for image in self.images])


class Cell(NamedTuple):
    """A number in the summary, or on an image."""

    value: float | None
    text: str
    deviation: str = ""  # over the images
    difference: str = ""  # to the column that others are compared with
    verdict: str = ""  # of the difference: "better" or "worse"; neither where chance may have made it
    is_best: bool = False  # of its row


class SummaryRow(NamedTuple):
    measurement: Measurement
    cells: Sequence[Cell]  # one a column


def columns_of(runs: Sequence[Run]) -> list[Column]:
    """Bicubic upsampling, if it was measured, and the runs."""
    columns = []
    for number, run in enumerate(runs):
        images = [image.measures for image in run.images.values()]
        is_whole = len(images) == len(run.report["per_image"])
        of_sets = {key: value for key, value in run.report["of_sets"].items() if is_whole and is_measure(key, value)}
        if number == 0 and any(name.startswith("bicubic_") for name in images[0]):
            columns.append(Column("Bicubic", "bicubic", [*map(of_bicubic, images)], of_bicubic(of_sets)))
        columns.append(Column(run.label, f"run{number}", images, of_sets))
    return columns


def of_bicubic(measures: Measures) -> dict[str, float]:
    return {name.removeprefix("bicubic_"): value for name, value in measures.items() if name.startswith("bicubic_")}


def base_of(columns: Sequence[Column]) -> Column:
    """The column that others are compared with: bicubic upsampling for a single run, the first of several."""
    return columns[0] if len(columns) < 3 or columns[0].colour != "bicubic" else columns[1]


def summary_rows(columns: Sequence[Column]) -> list[SummaryRow]:
    """The measurements that there are."""
    base = base_of(columns)
    rows = [SummaryRow(row, mark_best([summary_cell(column, base, row) for column in columns], row)) for row in ROWS]
    return [row for row in rows if any(cell.text for cell in row.cells)]


def summary_cell(column: Column, base: Column, row: Measurement) -> Cell:
    values, others = column.values(row.key), base.values(row.key)
    if row.key in column.of_sets:
        value = column.of_sets[row.key]
        return Cell(value, row.form.format(value), difference=signed(value - base.of_sets.get(row.key, value), row))
    measured = values[~np.isnan(values)]
    if not len(measured):
        return Cell(None, "")
    mean, deviation = float(measured.mean()), float(measured.std())
    difference, verdict = "", ""
    both = ~np.isnan(values) & ~np.isnan(others)
    if column is not base and both.any():
        values, others = values[both], others[both]
        difference = signed(float((values - others).mean()), row)
        verdict = verdict_of(badness(values, row) - badness(others, row))
    return Cell(mean, row.form.format(mean), row.form.format(deviation), difference, verdict)


def verdict_of(worsening: np.ndarray) -> str:
    """By the mean over images, each compared with itself, if it is beyond chance."""
    mean = float(worsening.mean())
    error = float(worsening.std(ddof=1)) / math.sqrt(len(worsening)) if len(worsening) > 1 else math.inf
    if abs(mean) <= CERTAIN * error:
        return ""
    return "worse" if mean > 0 else "better"


def mark_best(cells: Sequence[Cell], row: Measurement) -> list[Cell]:
    """The cells, with a mark on the best of them if there is more than one."""
    values = np.array([math.nan if cell.value is None else cell.value for cell in cells])
    if (~np.isnan(values)).sum() < 2:
        return list(cells)
    best = int(np.nanargmin(badness(values, row)))
    return [cell._replace(is_best=number == best) for number, cell in enumerate(cells)]


def image_cells(column: Column, base: Column, row: Measurement) -> list[Cell]:
    """A measurement of each image, beside the same image of another column."""
    values, others = column.values(row.key), base.values(row.key)
    if column is base:
        others = np.full_like(others, math.nan)
    worsening = badness(values, row) - badness(others, row)
    cells = []
    for value, other, worse in zip(values.tolist(), others.tolist(), worsening.tolist(), strict=True):
        if math.isnan(value):
            cells.append(Cell(None, "–"))
        elif math.isnan(other):
            cells.append(Cell(value, row.form.format(value)))
        else:
            verdict = "worse" if worse > 0 else "better" if worse < 0 else ""
            cells.append(Cell(value, row.form.format(value), "", signed(value - other, row), verdict))
    return cells


def badness(values: np.ndarray, row: Measurement) -> np.ndarray:
    """The larger, the worse."""
    return {"higher": -values, "lower": values, "near 1": np.abs(values - 1)}[row.better]


def signed(difference: float, row: Measurement) -> str:
    """`+1.49`, `−0.02`; nothing where it would be zero."""
    size = row.form.format(abs(difference))
    return "" if size == row.form.format(0) else ("+" if difference > 0 else "−") + size
