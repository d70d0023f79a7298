"""What the benchmarks share: timing, the device in words, a table, a JSON file."""

import time
from statistics import median

import torch

from core.device import describe, synchronize, versions
from core.report import write_json

LIBRARIES = ("numpy", "pillow", "lmdb")


def time_in_turn(functions, repeats, run):
    """{name: function} -> {name: seconds of each of its calls}, after one call of each that is not timed.

    The functions take turns, so that a device that slows down as it warms slows them all. Every time starts with all
    processes ready and ends when the device has nothing left to do.
    """
    for function in functions.values():
        function()
    seconds = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            synchronize(run.device)
            run.barrier()
            start = time.perf_counter()
            function()
            synchronize(run.device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def repeated(function, count):
    """A function that calls another so many times."""

    def block():
        for _ in range(count):
            function()

    return block


def fill_defaults(arguments, defaults):
    """The arguments, with these values where none were given."""
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def spread(values):
    """The median of repeated measurements, with the extremes."""
    return {"median": median(values), "least": min(values), "most": max(values)}


def environment(device):
    """Where something was measured, for a report."""
    told = versions(LIBRARIES)
    if device.type == "cuda":
        told |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"device": describe(device), "versions": told}


def table(header, rows):
    """Lists of texts as one aligned text; the first column is flush left, the others flush right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "─" * max(map(len, lines)))
    return "\n".join(lines)


def publish(title, text, report, file):
    """Prints the table under its title, and writes the report."""
    write_json(report, file)
    print(f"{title}\n\n{text}\n\nwritten to {file}")
