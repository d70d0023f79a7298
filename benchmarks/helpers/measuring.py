"""How the benchmarks measure: time, memory, the most that a device can do, and the plain operations beside the fast."""

import gc
import time
from contextlib import ExitStack, contextmanager
from functools import reduce
from statistics import median
from unittest import mock

import torch
from torch.nn import functional as F

from core.device import synchronize
from model.kernels import repeated as repeat_images

PEAK_SIDE = 8192  # of the matrices whose product shows what the device can do


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
