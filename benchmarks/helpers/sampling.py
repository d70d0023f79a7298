"""How benchmarks/sampling.py measures, and what it reports."""

import json
import math
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.helpers.measuring import (
    PEAK_SIDE,
    default_arithmetic,
    free,
    matrix_peak,
    peak_memory,
    tell,
    time_in_turn,
)
from benchmarks.helpers.named_network import named_network
from benchmarks.helpers.reports import (
    describe_figures,
    environment,
    figure_rows,
    goal,
    publish,
    show,
    spread,
    table,
    verdict,
)
from core.config import Config
from core.device import autocast, is_out_of_memory, pick_device, precision_on, synchronize
from core.network_size import parameter_count
from core.processes import Processes
from core.summary.operations import chain_flops, count_flops
from model.fast import make_plain
from model.network import Network
from model.sampler import SamplingPlan, sample
from model.sampling.group_decoding import decoded

SCRIPT = Path(__file__).parents[1] / "sampling.py"  # started anew for the first image of a process
CACHES = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH")  # where compilers leave what they made


@dataclass(frozen=True)
class Chain:
    """A way to sample, how much of it is measured, and its targets: with the face network, 16→128, on one H100."""

    solver: str
    steps: int
    key_steps: str
    decode: str = "every"
    way: str = "fast"  # "eager": nothing compiled; "plain": and nothing fused, in float32
    measured: tuple[int, int] = (2000, 200)  # the most steps of a measurement, of one image and of a batch
    batched: bool = True  # whether larger batches are tried
    latency: float | None = None  # seconds of one image, at most
    throughput: float | None = None  # images/s of the best batch, at least

    @property
    def label(self) -> str:
        decode = "" if self.decode == "every" else f", decode {self.decode}"
        return f"{self.steps} steps of {self.solver}, key steps {self.key_steps}{decode}"

    @property
    def plain(self) -> "Chain":
        """What the chain is measured beside; one and the same for chains that differ in reuse alone."""
        return Chain(self.solver, self.steps, "none", way="plain", measured=(100, 20))

    def measured_steps(self, batch: int) -> int:
        return min(self.steps, self.measured[batch > 1])


Times = dict[tuple[Chain, int], list[float]]  # (chain, batch) -> seconds of each measurement

CHAINS = {  # in the order of the table
    "ddpm": Chain("ddpm", 2000, "uniform:10", latency=0.6, throughput=2.8),
    "ends": Chain("ddpm", 2000, "uniform:10", "ends"),
    "first": Chain("ddpm", 2000, "uniform:10", "first", latency=0.4, throughput=12),
    "none": Chain("ddpm", 2000, "none", measured=(500, 20), batched=False, latency=4),
    "ddim": Chain("ddim", 50, "uniform:5", latency=0.03, throughput=100),
}
SHORT = Chain("ddim", 20, "uniform:4", batched=False, latency=10)  # its target is a CPU's

FIRST = {"first_cold": "fast", "first_cached": "fast", "first_eager": "eager"}  # new processes, one after the other
FIGURES = {  # what else is told: its name, how it is written, the target (for the face network on one H100)
    "first_cold": ("first image of a process, nothing cached", "{:.1f} s", ("≤", 60)),
    "first_cached": ("first image of a process, compilers' caches full", "{:.1f} s", ("≤", 15)),
    "first_eager": ("first image of a process, compiled=False", "{:.1f} s", None),
    "psnr": ("fast image to plain one, same noise and plan, ddim: PSNR", "{:.1f} dB", ("≥", 35)),
    "peak_allocated": ("peak memory of tensors, one image, groups of 10", "{:.2f} GB", None),
    "peak_reserved": ("the same with all that torch holds", "{:.2f} GB", ("≤", 3)),
    "matrix_peak": (f"bf16 matrix product, {PEAK_SIDE}³", "{:.0f} TFLOP/s", None),
}


def answer(arguments: Namespace) -> None:
    """Measures what the command line asks for, prints the table and writes the report."""
    if arguments.started:
        print(json.dumps(first_image(arguments)))
        return
    setting = load(arguments)
    report = describe(setting, arguments) | measure(setting, chains_of(setting, arguments.small), arguments)
    publish(title(report), as_table(report), report, arguments.json)


# ---------------------------------------------------------------------------------------------------------------------
# What is measured.


@dataclass(frozen=True)
class Setting:
    """What the measurements share."""

    network: Network  # on the CPU, and never sampled: what sampling keeps, graphs and tables, goes with a copy
    config: Config
    lr_side: int
    hr_side: int
    processes: Processes
    repeats: int

    def copy(self, way: str) -> Network:
        network = deepcopy(self.network).to(self.processes.device)
        return make_plain(network) if way == "plain" else network

    def plan(self, chain: Chain, steps: int | None = None) -> SamplingPlan:
        return SamplingPlan.parse(chain.key_steps, steps or chain.steps, self.network.schedule.n_timestep)


def load(arguments: Namespace) -> Setting:
    """The network of the command line, with random weights where that names a config."""
    processes = Processes(0, 1, pick_device(arguments.device))
    network, config = named_network(arguments.network, torch.device("cpu"), initialised=not arguments.started)
    hr_side = config.model.diffusion.image_size
    return Setting(network, config, round(hr_side / config.magnification), hr_side, processes, arguments.repeats)


def chains_of(setting: Setting, small: bool) -> dict[str, Chain]:
    """{name: chain} to measure on the device, none longer than the schedule."""
    on_cpu = setting.processes.device.type == "cpu"
    chains = (CHAINS if small or not on_cpu else {}) | ({"short": SHORT} if on_cpu else {})
    if small:
        chains = {name: shortened(chain) for name, chain in chains.items()}
    most = setting.network.schedule.n_timestep
    return {name: replace(chain, steps=min(chain.steps, most)) for name, chain in chains.items()}


def shortened(chain: Chain) -> Chain:
    return replace(chain, steps=max(chain.steps // 50, 10), measured=(40, 20))


def sampler(network: Network, setting: Setting, chain: Chain, batch: int) -> Callable[[], torch.Tensor]:
    """A function that samples a batch in as many steps as are measured: -> (B, 3, H, W)."""
    plan = setting.plan(chain, chain.measured_steps(batch))
    shape, size = (batch, 3, setting.lr_side, setting.lr_side), (setting.hr_side, setting.hr_side)
    lr = (2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1).to(setting.processes.device)
    options: dict[str, Any] = {"solver": chain.solver, "decode": chain.decode, "compiled": chain.way == "fast"}

    def block() -> torch.Tensor:
        with default_arithmetic() if chain.way == "plain" else autocast(setting.processes.device, sampling=True):
            return sample(network, lr, size, plan, seeds=range(batch), **options)

    return block


# ---------------------------------------------------------------------------------------------------------------------
# The measurements.


def measure(setting: Setting, chains: Mapping[str, Chain], arguments: Namespace) -> dict[str, Any]:
    """The measured part of the report."""
    first = first_images(arguments, setting.processes.device)  # these two with nothing else on the device
    allocated, reserved = peak_memory_of_one_image(setting, chains.get("ddpm", SHORT))
    compared = chains.get("ddim") or chains["short"]
    figures = {name: sum(first[name].values()) if name in first else None for name in FIRST}
    figures |= {"psnr": similarity(setting, compared), "peak_allocated": allocated, "peak_reserved": reserved}
    figures["matrix_peak"] = matrix_peak(setting.processes, setting.repeats)

    times = time_all(setting, chains.values(), arguments.batches)
    together = {decoded(len(group), chain.decode) for chain in chains.values() for group in setting.plan(chain).groups}
    flops = count_flops(setting.config.model, setting.lr_side, setting.hr_side, together)
    comparable = setting.config.name == "faces_16_128" and not arguments.small
    rows = []
    for name, chain in chains.items():
        gflop = chain_flops(flops, setting.plan(chain).groups, chain.decode)
        for batch in [1, *best_batches(chain, times)]:
            row = describe_row(chain, batch, times, gflop, figures["matrix_peak"], comparable)
            rows.append({"chain": name} | row)
    return {
        "gflop": flops,
        "rows": rows,
        "compared": compared.label,
        "first_image": first,
        "figures": describe_figures(FIGURES, figures, comparable),
    }


def time_all(setting: Setting, chains: Iterable[Chain], batches: Sequence[int]) -> Times:
    """{(chain, batch): seconds of the whole chain, one of each measurement}: of one image; of batches until the memory
    is too small; and at the best batch of each chain, of plain beside it."""
    times = time_chains(setting, [*chains, *(chain.plain for chain in chains)], 1)
    batched = [chain for chain in chains if chain.batched]
    for batch in batches if batched else ():
        try:
            times |= time_chains(setting, batched, batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            break
    beside = defaultdict(list)
    for chain in batched:
        for batch in best_batches(chain, times):
            beside[batch].append(chain.plain)
    for batch, plain in beside.items():
        times |= time_chains(setting, plain, batch)
    return times


def time_chains(setting: Setting, chains: Sequence[Chain], batch: int) -> Times:
    """{(chain, batch): seconds of the whole chain, one of each measurement}, the chains taking turns."""
    free()
    networks = {way: setting.copy(way) for way in {chain.way for chain in chains}}
    blocks = {chain: sampler(networks[chain.way], setting, chain, batch) for chain in chains}
    times = {}
    what = f"{len(blocks)} chains in turn, {batch} at once: {'; '.join(chain.label for chain in blocks)}"
    for chain, seconds in time_in_turn(blocks, setting.repeats, setting.processes, what).items():
        scale = chain.steps / chain.measured_steps(batch)
        times[chain, batch] = [scale * value for value in seconds]
    return times


def best_batches(chain: Chain, times: Times) -> list[int]:
    """[the batch that gives most images a second], of those measured; [] where they are all of one image."""
    rates = {batch: rate for batch, rate in rates_of(chain, times).items() if batch > 1}
    return sorted(rates, key=lambda batch: rates[batch])[-1:]


def rates_of(chain: Chain, times: Times) -> dict[int, float]:
    """{batch: images/s}"""
    return {batch: batch / median(seconds) for (timed, batch), seconds in times.items() if timed == chain}


def similarity(setting: Setting, chain: Chain) -> float:
    """PSNR in dB of an image sampled fast to the one sampled plainly, with the same noise and plan; values span 2."""
    ways = chain, replace(chain, way="plain")
    ours, theirs = (sampler(setting.copy(way.way), setting, way, 1)().double() for way in ways)
    error = (ours - theirs).square().mean().item()
    return 10 * math.log10(4 / error) if error else math.inf


def peak_memory_of_one_image(setting: Setting, chain: Chain, steps: int = 20) -> tuple[float | None, float | None]:
    """(GB of tensors, GB held) at most, from the network's way to the device to the image; Nones on the CPU."""

    def block() -> None:
        sampler(setting.copy(chain.way), setting, replace(chain, measured=(steps, steps)), 1)()

    return peak_memory(block, setting.processes.device)


def first_images(arguments: Namespace, device: torch.device) -> dict[str, dict[str, float]]:
    """{name in FIRST: seconds of each phase of a new process, from its start to its first image}.

    On the CPU, where nothing is compiled, it is one process.
    """
    command = [sys.executable, SCRIPT, "--network", arguments.network, "--device", arguments.device]
    seconds = {}
    with TemporaryDirectory() as caches:
        variables = os.environ | {name: str(Path(caches) / name) for name in CACHES}
        for name in FIRST if device.type == "cuda" else ("first_eager",):
            tell(FIGURES[name][0])
            started = ["--way", FIRST[name], "--started", repr(time.time())]
            done = subprocess.run([*command, *started], env=variables, stdout=subprocess.PIPE, text=True, check=True)
            seconds[name] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def first_image(arguments: Namespace) -> dict[str, float]:
    """In a new process: samples an image of a short chain -> seconds of each phase."""
    times = [arguments.started, time.time()]
    setting = load(arguments)
    network = setting.network.to(setting.processes.device)
    synchronize(setting.processes.device)
    times.append(time.time())
    sampler(network, setting, replace(SHORT, way=arguments.way), 1)()
    synchronize(setting.processes.device)
    times.append(time.time())
    phases = ("import", "network", "sample")
    return {phase: after - before for phase, (before, after) in zip(phases, pairwise(times), strict=True)}


# ---------------------------------------------------------------------------------------------------------------------
# The report.


def describe(setting: Setting, arguments: Namespace) -> dict[str, Any]:
    """What is measured, where and how."""
    return {
        "benchmark": "sampling",
        **environment(setting.processes.device),
        "config": setting.config.name,
        "network": arguments.network,
        "parameters": parameter_count(setting.network),
        "l_resolution": setting.lr_side,
        "r_resolution": setting.hr_side,
        "precision": precision_on(setting.processes.device),
        "batches": arguments.batches,
        "measurements": setting.repeats,
    }


def describe_row(
    chain: Chain, batch: int, times: Times, gflop: Mapping[str, float], peak: float | None, comparable: bool
) -> dict[str, Any]:
    """A chain at a batch: times of the whole chain, its rate, its speed beside plain, what it computes per image.

    peak: TFLOP/s of the device, or None; comparable: whether the targets were set for this network.
    """
    seconds, plain = times[chain, batch], times[chain.plain, batch]
    rate, tflops = batch / median(seconds), batch * gflop["gflop_per_image"] / median(seconds) / 1e3
    value, unit, sign, limit = median(seconds), "s", "≤", chain.latency
    if batch > 1:
        value, unit, sign, limit = rate, "images/s", "≥", chain.throughput
    return {
        "label": chain.label,
        "batch": batch,
        "steps": chain.steps,
        "measured_steps": chain.measured_steps(batch),
        "seconds": spread(seconds),
        "images_per_second": rate,
        "by_batch": rates_of(chain, times),
        "plain": {"seconds": spread(plain), "measured_steps": chain.plain.measured_steps(batch)},
        "ratio": median(plain) / median(seconds),
        **gflop,
        "tflops": tflops,
        "share_of_peak": tflops / peak if peak else None,
        "target": limit,
        "unit": unit,
        "met": verdict(value, None if limit is None else (sign, limit), comparable),
    }


def title(report: dict[str, Any]) -> str:
    batched = any(row["batch"] > 1 for row in report["rows"])
    batches = f", of one image and of the best batch of {', '.join(map(str, report['batches']))}" if batched else ""
    lines = [
        f"{report['config']}: {report['parameters']:,} parameters, {report['l_resolution']} → {report['r_resolution']}",
        f"in {report['precision']} on {report['device']}",
        f"medians of {report['measurements']} measurements of whole chains{batches}; ~ n: of n steps, and scaled",
        "plain: eager, float32, nothing fused, encoder and decoder at every step; apart: each decoder call by itself",
    ]
    for name, phases in report["first_image"].items():
        lines.append(f"{FIGURES[name][0]}: " + ", ".join(f"{phase} {value:.1f} s" for phase, value in phases.items()))
    return "\n".join(lines)


def as_table(report: dict[str, Any]) -> str:
    header = ["", "", "batch", "images/s", "plain", "× plain", "GFLOP/image", "apart", "TFLOP/s", "of peak", "target"]
    rows = [chain_row(row) for row in report["rows"]]
    rows += call_rows(report["gflop"], header)
    rows += figure_rows(FIGURES, report["figures"], len(header))
    return table(header, rows)


def chain_row(row: dict[str, Any]) -> list[str]:
    sign = "≤" if row["unit"] == "s" else "≥"
    return [
        row["label"],
        timing(row, row["steps"]),
        str(row["batch"]),
        f"{row['images_per_second']:.4g}",
        timing(row["plain"], row["steps"]),
        f"{row['ratio']:.1f}",
        f"{row['gflop_per_image']:.5g}",
        f"{row['gflop_per_image_unshared']:.5g}",
        f"{row['tflops']:.3g}",
        show(row["share_of_peak"], "{:.1%}"),
        goal(row["target"] and (sign, row["target"]), row["unit"], row["met"]),
    ]


def timing(measured: dict[str, Any], steps: int) -> str:
    """The time of a chain as text, with the number of steps that were measured if not all were."""
    seconds, scaled = measured["seconds"]["median"], measured["measured_steps"]
    told = f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"
    return told if scaled == steps else f"{told} ~ {scaled}"


def call_rows(gflop: dict[str, Any], header: list[str]) -> Iterator[list[str]]:
    """What each call of the network computes."""
    calls = {"one call of condition": (gflop["condition"], ""), "one call of encode": (gflop["encode"], "")}
    for k, value in gflop["decode"].items():
        calls[f"one call of decode, {k} step{'s' if k > 1 else ''}"] = value, f"{k * gflop['decode'][1]:.5g}"
    at = header.index("GFLOP/image")
    for label, (value, apart) in calls.items():
        yield [label, *[""] * (at - 1), f"{value:.5g}", apart, *[""] * (len(header) - at - 2)]
