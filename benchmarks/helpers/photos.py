"""How benchmarks/photos.py measures, and what it reports."""

import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from benchmarks.helpers import real_esrgan
from benchmarks.helpers.measuring import free, matrix_peak, tell, time_in_turn
from benchmarks.helpers.named_network import named_network
from benchmarks.helpers.reports import (
    Figure,
    describe_figures,
    environment,
    figure_rows,
    publish,
    show,
    spread,
    table,
)
from benchmarks.helpers.sampling import count_flops
from core.config import Config
from core.device import is_out_of_memory, pick_device, precision_on, synchronize
from core.errors import UserError
from core.network_size import parameter_count
from core.processes import Processes
from core.sampling.memory import peak_memory
from core.sampling.super_resolution import Sampling, sampling_settings, super_resolve
from core.sampling.trained_sizes import TrainedSizes
from data.tensors import to_image, to_tensor
from model.network import Network

SCRIPT = Path(__file__).parents[1] / "photos.py"  # started anew for each image
SCALE = 4
ONE_CALL = {"steps": 1, "key_steps": "none"}
OURS, THEIRS = "ours", "real-esrgan"
TARGET_SIDE = 512  # pixels of the image that the targets are for

FIGURES: dict[str, Figure] = {  # what else is told: its name, how it is written, the target (of 512x512 pixels)
    "latency": ("one image on a GPU, target of one H100", "{:.1f} ms", ("≤", 60)),
    "ratio": ("one image on a CPU, times as fast as Real-ESRGAN x4plus", "{:.1f} times", ("≥", 1)),
    "core_ratio": ("the same, by seconds of all cores together", "{:.1f} times", None),
    "matrix_peak": ("product of two large matrices", "{:.3g} TFLOP/s", None),
}


def answer(arguments: Namespace) -> None:
    """Measures what the command line asks for, prints the table and writes the report."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(enlarge_one(arguments)))
        return
    setting = load(arguments)
    report = describe(setting, arguments) | measure(setting, arguments)
    publish(title(report), as_table(report), report, arguments.json)


# ---------------------------------------------------------------------------------------------------------------------
# What is measured.


class Setting(NamedTuple):
    """A network that samples in one call, as infer.py does it."""

    network: Network
    config: Config
    sampling: Sampling
    processes: Processes

    @property
    def device(self) -> torch.device:
        return self.processes.device

    def enlarge(self, lr: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) -> (B, 3, 4h, 4w)."""
        size = lr.shape[2] * SCALE, lr.shape[3] * SCALE
        sr = super_resolve(self.network, lr, size, self.sampling, [0] * len(lr), TrainedSizes.of(self.config))
        synchronize(self.device)
        return sr


def load(arguments: Namespace) -> Setting:
    """The network of the command line, with random weights if that is a config."""
    processes = Processes(0, 1, pick_device(arguments.device))
    network, config = named_network(arguments.network, processes.device)
    settings = sampling_settings(config, ONE_CALL | {"precision": arguments.precision})
    return Setting(network, config, Sampling.of(settings, network.schedule), processes)


def picture(side: int) -> Image.Image:
    """A square of random pixels: the time does not depend on what is in an image."""
    levels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(levels)


# ---------------------------------------------------------------------------------------------------------------------
# The measurements.


def measure(setting: Setting, arguments: Namespace) -> dict[str, Any]:
    """The measured part of the report."""
    on_cpu = setting.device.type == "cpu"
    lacking = real_esrgan.missing() if on_cpu else "it is measured with --device cpu"
    images = one_image(arguments, [OURS] if lacking else [OURS, THEIRS])
    gflop = gflop_of_one(setting, arguments.batch_side)
    precision = precision_on(setting.device, arguments.precision)
    peak = matrix_peak(setting.processes, arguments.repeats, on_cpu_in=precision)
    batches = time_batches(setting, arguments)
    medians = {name: row["seconds"]["median"] for name, row in images.items()}
    figures = {
        "latency": None if on_cpu else 1e3 * medians[OURS],
        "ratio": medians[THEIRS] / medians[OURS] if THEIRS in medians else None,
        "core_ratio": ratio_of_cores(images) if THEIRS in medians else None,
        "matrix_peak": peak,
    }
    comparable = arguments.network == "photos" and arguments.side == TARGET_SIDE
    return {
        "one_image": images,
        "not_measured": f"Real-ESRGAN x4plus is not measured: {lacking}" if lacking else None,
        "batches": [describe_batch(batch, seconds, gflop, peak) for batch, seconds in batches.items()],
        "figures": describe_figures(FIGURES, figures, comparable),
    }


def ratio_of_cores(images: Mapping[str, Mapping[str, Any]]) -> float:
    theirs, ours = (images[way]["core_seconds"]["median"] for way in (THEIRS, OURS))
    return theirs / ours


def one_image(arguments: Namespace, ways: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{way: its seconds and its peak memory}, each time in a new process; the ways take turns."""
    command = [sys.executable, str(SCRIPT), "--network", arguments.network, "--device", arguments.device]
    command += ["--side", str(arguments.side), "--threads", str(torch.get_num_threads())]
    command += ["--precision", arguments.precision]
    results: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(1, arguments.repeats + 1):
        for way in ways:
            tell(f"one image in a process of its own, {way}, {number} of {arguments.repeats}")
            done = subprocess.run([*command, "--one", way], stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise UserError(f"the process that measures {way} ended with exit code {done.returncode}")
            results[way].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        way: {
            "seconds": spread([result["seconds"] for result in measured]),
            "core_seconds": spread([result["core_seconds"] for result in measured]),
            "peak_memory": max(result["peak_memory"] for result in measured),
        }
        for way, measured in results.items()
    }


def enlarge_one(arguments: Namespace) -> dict[str, float]:
    """In a new process: one image, from Pillow to Pillow -> its seconds, those of all cores together, which a busy
    machine hardly changes, and the peak memory of the process in GB."""
    device = pick_device(arguments.device)
    enlarge = ours(load(arguments)) if arguments.one == OURS else real_esrgan.real_esrgan(torch.get_num_threads())
    # A GPU captures a graph for the size at first; on a CPU, any image makes all ready.
    enlarge(picture(arguments.side if device.type == "cuda" else 16))
    image = picture(arguments.side)
    start, cores_start = time.perf_counter(), time.process_time()
    enlarge(image)
    return {
        "seconds": time.perf_counter() - start,
        "core_seconds": time.process_time() - cores_start,
        "peak_memory": peak_memory(device),
    }


def ours(setting: Setting) -> Callable[[Image.Image], Image.Image]:
    return lambda image: to_image(setting.enlarge(to_tensor(image)[None])[0])


def time_batches(setting: Setting, arguments: Namespace) -> dict[int, list[float]]:
    """{batch: seconds of each measurement}, up to the largest batch that fits into memory."""
    seconds: dict[int, list[float]] = {}
    for batch in arguments.batches:
        free()
        lr = torch.stack([to_tensor(picture(arguments.batch_side))] * batch).to(setting.device)
        try:
            function = {batch: enlarger(setting, lr)}
            seconds |= time_in_turn(function, arguments.repeats, setting.processes, f"batches of {batch}")
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            break
    return seconds


def enlarger(setting: Setting, lr: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: setting.enlarge(lr)


# ---------------------------------------------------------------------------------------------------------------------
# The report.


def describe(setting: Setting, arguments: Namespace) -> dict[str, Any]:
    """What is measured, where and how."""
    return {
        "benchmark": "photos",
        **environment(setting.device),
        "network": arguments.network,
        "parameters": parameter_count(setting.network),
        "precision": precision_on(setting.device, arguments.precision),
        "threads": torch.get_num_threads(),
        "side": arguments.side,
        "batch_side": arguments.batch_side,
        "measurements": arguments.repeats,
    }


def describe_batch(batch: int, seconds: Sequence[float], gflop: float, peak: float | None) -> dict[str, Any]:
    """gflop: of one image; peak: TFLOP/s of a matrix product."""
    rate = batch / median(seconds)
    tflops = rate * gflop / 1e3
    return {
        "batch": batch,
        "seconds": spread(seconds),
        "images_per_second": rate,
        "gflop_per_image": gflop,
        "tflops": tflops,
        "share_of_peak": tflops / peak if peak else None,
    }


def gflop_of_one(setting: Setting, side: int) -> float:
    """GFLOP of one image of `side` pixels, made at once."""
    flops = count_flops(setting.config.model, side, side * SCALE, together=())
    return flops["condition"] + flops["encode"] + flops["decode"][1]


def title(report: dict[str, Any]) -> str:
    lines = [
        f"{report['network']}: {report['parameters']:,} parameters, ×{SCALE}, one call, in {report['precision']}",
        f"{report['device']}; {report['threads']} threads; medians of {report['measurements']} measurements",
        report["not_measured"],
    ]
    return "\n".join(line for line in lines if line)


def as_table(report: dict[str, Any]) -> str:
    header = ["", "images", "seconds", "range", "images/s", "TFLOP/s", "of peak", "peak memory", "target"]
    labels = {OURS: report["network"], THEIRS: real_esrgan.LABEL}
    rows = []
    for way, row in report["one_image"].items():
        memory = f"{row['peak_memory']:.2f} GB"
        rows.append([f"{labels[way]}, {sizes(report['side'])}", "1", *times(row["seconds"]), "", "", "", memory, ""])
    for row in report["batches"]:
        cells = [f"{row['images_per_second']:.4g}", f"{row['tflops']:.3g}", show(row["share_of_peak"], "{:.0%}")]
        label = f"{report['network']}, {sizes(report['batch_side'])}"
        rows.append([label, str(row["batch"]), *times(row["seconds"]), *cells, "", ""])
    rows += figure_rows(FIGURES, report["figures"], len(header))
    return table(header, rows)


def sizes(side: int) -> str:
    return f"{side}×{side} → {side * SCALE}×{side * SCALE}"


def times(seconds: dict[str, float]) -> list[str]:
    """The median, and the range."""
    return [f"{seconds['median']:.4g}", f"{seconds['least']:.4g} to {seconds['most']:.4g}"]
