"""What each update of the masks did to each layer of a run: a table, for programs and for the picture of it."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.log import warn
from data.errors import DataError, reason
from data.files import write_atomically


@dataclass
class LayerTable:
    """A number of each layer after each update."""

    layers: list[str] = field(default_factory=list)  # in the order of the network
    steps: list[int] = field(default_factory=list)  # of the updates
    rows: list[list[float]] = field(default_factory=list)  # a row for each update, in it a number for each layer


def read_layer_table(file: Path) -> LayerTable:
    """A table as `LayerHistory` writes it. What is no whole row, as where a run was killed, is left out."""
    with file.open(encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines)
    table = LayerTable(header[1:])
    for row in rows:
        try:
            step, *values = int(row[0]), *map(float, row[1:])
        except (ValueError, IndexError):
            continue
        if len(values) == len(table.layers):
            table.steps.append(step)
            table.rows.append(values)
    return table


class LayerHistory:
    """A table of the layers in a CSV file that grows with each update: `step`, and a column for each layer.

    A run that continues at a step keeps the rows up to it. Where the file cannot be written, that is said once, and
    the training goes on. Only the main process writes; on others nothing happens.
    """

    def __init__(self, file: Path, step: int, is_main: bool) -> None:
        self.file, self.is_main = file, is_main
        self.table = LayerTable()
        self.begun = False  # whether the file holds what the table does
        if is_main and step:
            self.go_on(step)

    def go_on(self, step: int) -> None:
        """Takes over the rows of the file up to a step, as far as it can be read."""
        try:
            earlier = read_layer_table(self.file)
        except (OSError, ValueError, csv.Error):
            return
        kept = [(at, row) for at, row in zip(earlier.steps, earlier.rows, strict=True) if at <= step]
        self.table = LayerTable(earlier.layers, [at for at, _ in kept], [row for _, row in kept])

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a row."""
        if not self.is_main:
            return
        if self.table.layers != list(values):  # of another network, or none
            self.table, self.begun = LayerTable(list(values)), False
        self.table.steps.append(step)
        self.table.rows.append(list(values.values()))
        try:
            self.write()
        except (OSError, DataError) as error:
            self.is_main = False
            warn(f"{self.file} ends here, training goes on: {reason(error)}")

    def write(self) -> None:
        """Brings the file up to the table: by its last row, where it holds the others."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        rows = zip(self.table.steps, self.table.rows, strict=True)
        if self.begun:
            rows = zip(self.table.steps[-1:], self.table.rows[-1:], strict=True)
        else:
            lines.writerow(["step", *self.table.layers])
        lines.writerows([step, *(f"{value:.6g}" for value in row)] for step, row in rows)
        if self.begun:
            with self.file.open("a", encoding="utf-8", newline="") as file:
                file.write(text.getvalue())
        else:
            write_atomically(self.file, text.getvalue().encode())
            self.begun = True
