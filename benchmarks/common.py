"""What the benchmarks share: timing, what to measure beside, the device in words, a table, a JSON file."""

import gc
import json
import logging
import time
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import reduce
from pathlib import Path
from statistics import median
from unittest import mock

import torch
from torch.nn import functional as F

from core.device import describe, synchronize, versions
from core.errors import UserError
from core.logging import TerminalHandler
from core.report import write_json
from model.kernels import repeated as repeat_images

LIBRARIES = ("numpy", "pillow", "lmdb")
PEAK_SIDE = 8192  # of the matrices whose product shows what the device can do

# ---------------------------------------------------------------------------------------------------------------------
# Measuring.


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


def matrix_peak(run, repeats):
    """TFLOP/s of a large product of random bf16 matrices; None on the CPU."""
    if run.device.type != "cuda":
        return None
    a, b = torch.randn(2, PEAK_SIDE, PEAK_SIDE, device=run.device).bfloat16()
    seconds = time_in_turn({"product": repeated(lambda: a @ b, 10)}, repeats, run)
    return 10 * 2 * PEAK_SIDE**3 / median(seconds["product"]) / 1e12


def peak_memory(function, device):
    """(GB that tensors take at most while the function runs, GB that torch holds for them); Nones on the CPU."""
    if device.type != "cuda":
        return None, None
    free()
    torch.cuda.reset_peak_memory_stats(device)
    function()
    return torch.cuda.max_memory_allocated(device) / 1e9, torch.cuda.max_memory_reserved(device) / 1e9


def free():
    """Gives back the memory of what is no longer named."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def plain_operations():
    """Inside, nothing is fused, and float32 is computed as torch does it unasked: TF32 in convolutions alone."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = False, True, False
    try:
        with ExitStack() as stack:
            for name, plain in PLAIN.items():
                stack.enter_context(mock.patch(name, plain))
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def plain_group_norm_silu(x, weight, bias, groups, eps=1e-5, shift=None, silu=True, plus=None):
    """What model.group_norm computes, one operation after the other."""
    terms = [x, plus, None if shift is None else shift[:, :, None, None]]
    y = F.group_norm(plain_sum(terms), groups, weight, bias, eps)
    return F.silu(y) if silu else y


def plain_add_biased(bias, *terms):
    """What model.pointwise adds, one operation after the other."""
    return plain_sum([*terms, bias[None, :, None, None]])


def plain_sum(terms):
    """The sum of those that are there, each repeated for as many images as any has."""
    terms = [term for term in terms if term is not None]
    images = max(map(len, terms))
    return reduce(torch.add, [term if len(term) == 1 else repeat_images(term, images) for term in terms])


PLAIN = {  # what network and sampler look up -> what they find in its place
    "model.blocks.group_norm_silu": plain_group_norm_silu,
    "model.blocks.add_biased": plain_add_biased,
    "model.group_norm.HAS_KERNELS": False,
    "model.pointwise.HAS_KERNELS": False,
    "model.steps.HAS_KERNELS": False,
}


# ---------------------------------------------------------------------------------------------------------------------
# Telling.


def fill_defaults(arguments, defaults):
    """The arguments, with these values where none were given."""
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def matching(names, patterns, refusal):
    """The names that fit any of some patterns, as in "ddim50*,dpm++*", in their own order.

    Raises UserError where a pattern fits none, with what refusal(pattern) says.
    """
    patterns = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(refusal(pattern))
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def start_log(name):
    """A logger whose lines go to the terminal, beside a progress bar."""
    log = logging.getLogger(name)
    log.propagate = False
    log.setLevel(logging.INFO)
    log.handlers = [TerminalHandler()]
    return log


def spread(values):
    """The median of repeated measurements, with the extremes."""
    return {"median": median(values), "least": min(values), "most": max(values)}


def environment(device):
    """Where something was measured, for a report."""
    told = versions(LIBRARIES)
    if device.type == "cuda":
        told |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"device": describe(device), "versions": told}


def describe_figures(figures, values, comparable):
    """{figure: its value, target, and whether that is met} of {figure: (label, form, target)} and {figure: value}."""
    told = {}
    for name, (label, form, target) in figures.items():
        value, unit = values[name], form.split("} ")[1]
        met = verdict(value, target, comparable)
        told[name] = {"label": label, "value": value, "unit": unit, "target": target and target[1], "met": met}
    return told


def figure_rows(figures, told, columns):
    """The described figures that have a value as rows of so many columns, the target in the last."""
    for name, (label, form, target) in figures.items():
        value, unit, met = (told[name][key] for key in ("value", "unit", "met"))
        if value is not None:
            yield [label, form.format(value), *[""] * (columns - 3), goal(target, unit, met)]


def verdict(value, target, comparable=True):
    """Whether a value meets its target, ("≤" or "≥", number); None without one, or where it is for another case."""
    if value is None or target is None or not comparable:
        return None
    sign, limit = target
    return value <= limit if sign == "≤" else value >= limit


def goal(target, unit, met):
    """A target and its verdict as text; nothing without one."""
    if target is None:
        return ""
    words = {None: "", True: ", met", False: ", missed"}
    return f"{target[0]} {target[1]} {unit}{words[met]}"


def show(value, form):
    """A number as text; nothing where there is none."""
    return "" if value is None else form.format(value)


def table(header, rows):
    """Lists of texts as one aligned text; the first column is flush left, the others flush right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "─" * max(map(len, lines)))
    return "\n".join(lines)


def read_report(file, benchmark):
    """A report that a benchmark wrote. Raises UserError where the file is none."""
    try:
        report = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot read it: {error.strerror}") from None
    except ValueError:
        report = None
    if not isinstance(report, dict) or report.get("benchmark") != benchmark:
        raise UserError(f"{file}: not a report of benchmarks/{benchmark}.py")
    return report


def publish(title, text, report, file):
    """Prints the table under its title, and writes the report."""
    write_json(report, file)
    print(f"{title}\n\n{text}\n\nwritten to {file}")
