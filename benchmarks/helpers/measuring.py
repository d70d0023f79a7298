"""How the benchmarks measure: time, memory, the most that a device can do, torch's own arithmetic."""

import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any, TypeVar

import torch

from core.device import HALVES, synchronize
from core.lines import write_line
from core.processes import Processes

Name = TypeVar("Name")

PEAK_SIDE = 8192  # of the matrices whose product shows what the device can do
PEAK_SIDE_CPU = 1024


def tell(what: str) -> None:
    """A line about what is measured now, for whoever waits; the report alone goes to stdout."""
    write_line(f"measuring {what}", sys.stderr)


def time_in_turn(
    functions: Mapping[Name, Callable[[], Any]], repeats: int, processes: Processes, what: str
) -> dict[Name, list[float]]:
    """{name: function} -> {name: seconds of each of its calls}, after one call of each that is not timed.

    what: these functions, in words.

    The functions take turns, so that a device that slows down as it warms slows them all. Every time starts with all
    processes ready and ends when the device has nothing left to do.
    """
    if processes.is_main:
        tell(what)
    for function in functions.values():
        function()
    seconds: dict[Name, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            synchronize(processes.device)
            processes.barrier()
            start = time.perf_counter()
            function()
            synchronize(processes.device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def repeated(function: Callable[[], Any], count: int) -> Callable[[], None]:
    """A function that calls another so many times."""

    def block() -> None:
        for _ in range(count):
            function()

    return block


def matrix_peak(processes: Processes, repeats: int, on_cpu_in: str | None = None) -> float | None:
    """TFLOP/s of a large product of random bf16 matrices; on a CPU, that of a smaller one in the precision that is
    named, or None."""
    on_gpu = processes.device.type == "cuda"
    if not on_gpu and on_cpu_in is None:
        return None
    side, dtype = (PEAK_SIDE, torch.bfloat16) if on_gpu else (PEAK_SIDE_CPU, HALVES.get(str(on_cpu_in), torch.float32))
    a, b = torch.randn(2, side, side, device=processes.device).to(dtype)
    product = {"product": repeated(lambda: a @ b, 10)}
    seconds = time_in_turn(product, repeats, processes, "a product of two matrices")
    return 10 * 2 * side**3 / median(seconds["product"]) / 1e12


def peak_memory(function: Callable[[], Any], device: torch.device) -> tuple[float | None, float | None]:
    """(GB that tensors take at most while the function runs, GB that torch holds for them); Nones on the CPU."""
    if device.type != "cuda":
        return None, None
    free()
    torch.cuda.reset_peak_memory_stats(device)
    function()
    return torch.cuda.max_memory_allocated(device) / 1e9, torch.cuda.max_memory_reserved(device) / 1e9


def free() -> None:
    """Gives back the memory of what is no longer named."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def default_arithmetic() -> Iterator[None]:
    """Inside, float32 is computed as torch does it unasked: TF32 in convolutions alone, algorithms not tried out."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = False, True, False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
