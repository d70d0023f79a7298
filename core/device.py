"""Which device to run on, and in which arithmetic: the one place that decides."""

import contextlib
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from importlib.metadata import version

import torch
from torch import Tensor

from core.errors import UserError

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def show_gpus(numbers: str) -> None:
    """Lets this process use these GPUs ("0,2") alone, counted from 0 again. Before anything asks CUDA for a device."""
    os.environ["CUDA_VISIBLE_DEVICES"] = numbers


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" | "cpu" | "cuda" | "cuda:N" | another that torch has, as "mps" or "xpu" -> the device.

    auto is the CUDA GPU where there is one.

    Whatever runs on it, training, validation or inference, computes alike: what stays float32 on a GPU is TF32.
    """
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: no such device; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: torch {torch.__version__} sees no CUDA device; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if device.type not in ("cpu", "cuda") or device.index:
        refuse_missing(device)
    return device


def refuse_missing(device: torch.device) -> None:
    """One line where the machine, or torch as it is installed, cannot compute on a device, as on mps without a Mac."""
    try:
        computes = float(torch.ones(2, device=device).sum()) == 2
    except Exception:  # backends that are not there raise what they like
        computes = False
    if not computes:
        raise UserError(f"--device {device}: torch {torch.__version__} cannot use it here; use --device cpu")


def compute_deterministically() -> None:
    """From here on, before anything runs on a GPU: the same bits each time, at some cost in speed.

    An operation that torch has only in a form that adds up in any order is named by a warning of torch.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def autocast(device: torch.device, precision: str = "auto", sampling: bool = False) -> AbstractContextManager:
    """The context in which the network runs: autocast to "bf16" or "fp16", or nothing for "float32".

    "auto" is float32 on CPUs, and on GPUs without bf16. On others it is bf16 for training, whose gradients need
    its range, and fp16 for sampling, which rounds eight times more finely.
    """
    precision = precision_on(device, precision, sampling)
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=HALVES[precision])


def precision_on(device: torch.device, precision: str = "auto", sampling: bool = True) -> str:
    """The precision itself, "float32", "bf16" or "fp16", or what "auto" stands for on a device; see `autocast`."""
    if precision != "auto":
        return precision
    if device.type != "cuda" or not torch.cuda.is_bf16_supported():
        return "float32"
    return "fp16" if sampling else "bf16"


def is_out_of_memory(error: BaseException | None) -> bool:
    """Of the GPU, or of the CPU, for which torch has no class of its own; also where one error came of another, as when
    the capture of a CUDA graph is given up."""
    words = ("allocate memory", "enough memory", "out of memory", "ALLOC_FAILED", "unable to find an engine")
    while error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words):
            return True
        error = error.__context__
    return False


@contextlib.contextmanager
def out_of_memory_said(problem: str) -> Iterator[None]:
    """Inside, where memory is too small, a UserError says so in these words."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(problem) from None


def uses_graphs(device: torch.device) -> bool:
    """Whether the device can record its work once and replay it."""
    return device.type == "cuda"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it, so that a clock read next is true."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """{"python", "torch", and each of the libraries: its version}, for reports. A package's version does not tell the
    build of torch, so that is asked of torch."""
    named = {"python": platform.python_version(), "torch": torch.__version__}
    return named | {name: version(name) for name in libraries}


def describe(device: torch.device) -> str:
    """The device and the library versions, for reports."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    return f"{name}{threads}, torch {torch.__version__}"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, a CPU computes with one thread: many small pieces of work are done sooner so than by threads that wait
    for each other, on all cores, after each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class LateReading:
    """Numbers that each step leaves on the device, read one step late: the host then need not wait for the step that it
    has just launched."""

    def __init__(self) -> None:
        self.on_its_way: tuple[Tensor, torch.cuda.Event | None] | None = None

    def exchange(self, values: Tensor) -> Tensor:
        """Takes the numbers of this step -> those of the step before, on the host; zeros at the first."""
        before, self.on_its_way = self.on_its_way, self._send(values)
        if before is None:
            return torch.zeros(values.shape)
        numbers, arrived = before
        if arrived:
            arrived.synchronize()
        return numbers

    def _send(self, values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        if values.device.type != "cuda":
            return values.to("cpu", copy=True), None
        on_host = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return on_host, arrived
