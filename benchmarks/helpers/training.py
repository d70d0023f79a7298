"""How benchmarks/training.py measures, and what it reports."""

import logging
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.helpers.measuring import (
    PEAK_SIDE,
    default_arithmetic,
    free,
    matrix_peak,
    peak_memory,
    repeated,
    time_in_turn,
)
from benchmarks.helpers.reports import (
    describe_figures,
    environment,
    figure_rows,
    publish,
    show,
    spread,
    table,
)
from core.config import Config, changed, load_config
from core.network_size import parameter_count
from core.processes import Processes
from core.training.trainer import Trainer
from data.images import resize, save_png
from model import build_network
from model.diffusion import DiffusionLoss, draw_noise_levels
from model.network import Network
from model.schedule import NoiseSchedule
from sparse import Masker

Seconds = dict[str, list[float]]  # way to train -> seconds of each measurement

DRAWS = 4  # times as many steps are measured with continuous scale: every one draws a size, and they differ in cost

STEPS = {  # ways to train, in the order of the table
    "plain": "plain: eager float32, Adam without foreach, mask by a loop",
    "sparse": "sparse momentum, EMA, everything on",
    "dense": "the same, --dense",
    "continuous": "the same as sparse, continuous scale",
    "alone": "the same as sparse, each process by itself",
}
FIGURES = {  # what else is told: its name, how it is written, the target (for the face network, batch 32, one H100)
    "rate": ("sparse momentum", "{:.2f} steps/s", ("≥", 20)),
    "mask_cost": ("mask after every step: sparse - dense, of the step", "{:.2f} %", ("≤", 2)),
    "mask_apply": ("mask application alone", "{:.3f} ms", None),
    "update": ("one prune-and-regrow update", "{:.1f} ms", ("≤", 150)),
    "peak_memory": ("peak memory, sparse", "{:.2f} GB", ("≤", 16)),
    "matrix_peak": (f"bf16 matrix product, {PEAK_SIDE}³", "{:.0f} TFLOP/s", None),
    "scaling": ("all processes together, of the sum of each by itself", "{:.1f} %", ("≥", 90)),
}


@record
def answer(arguments: Namespace) -> None:
    """Measures what the command line asks for; the first process prints the table and writes the report."""
    processes = Processes.from_environment(arguments.device)
    with TemporaryDirectory() as folder:
        config = benchmark_config(arguments, Path(folder))
        report = describe(config, processes, arguments) | measure(config, processes, arguments.steps, arguments.repeats)
    if processes.is_main:
        publish(title(report), as_table(report), report, arguments.json)
    processes.close()


# ---------------------------------------------------------------------------------------------------------------------
# What is measured.


def benchmark_config(arguments: Namespace, folder: Path) -> Config:
    """The config with images of ours in a folder, where the experiment goes too; every step trains at the full size."""
    config = load_config(arguments.config, arguments.overrides, {"phase": "train"})
    images = config.datasets.train
    make_images(folder, images.l_resolution, images.r_resolution)
    ours = {"dataroot": str(folder), "datatype": "img", "mode": "LRHR", "use_crop": False, "data_len": -1}
    ours |= {"hr_dataroot": None, "lr_dataroot": None, "num_workers": 0, "batch_size": arguments.batch}
    changes = {
        "datasets": {"train": {**images, **ours}},
        "path.root": str(folder / "experiments"),
        "train.continuous_scale": False,
        "train.ema_scheduler.step_start_ema": 0,
        "sparse.enabled": True,
        "sparse.update_every": 10**9,  # updates are measured by themselves
    }
    return changed(config, changes)


def make_images(folder: Path, l_resolution: int, r_resolution: int, count: int = 8) -> None:
    """Prepared pairs of noise."""
    rng = np.random.default_rng(0)
    for number in range(count):
        hr = Image.fromarray(rng.integers(0, 256, (r_resolution, r_resolution, 3), dtype=np.uint8))
        for kind, side in (("lr", l_resolution), ("hr", r_resolution)):
            (folder / f"{kind}_{side}").mkdir(exist_ok=True)
            save_png(resize(hr, (side, side)), folder / f"{kind}_{side}" / f"{number}.png")


def make_trainer(config: Config, processes: Processes, section: str | None = None, **changes: Any) -> Trainer:
    """The project's trainer, with changes to a section of the config."""
    config = changed(config, {f"{section}.{key}": value for key, value in changes.items()})
    return Trainer(config, processes, logging.getLogger("benchmarks"))


def training_steps(trainer: Trainer, batch: dict[str, Any], count: int) -> Callable[[], None]:
    """A function that trains so many steps, at each call those from step 0 on: they draw the same sizes again."""

    def block() -> None:
        trainer.step = 0
        for _ in range(count):
            trainer.train_step(batch)

    return block


def plain_step(config: Config, processes: Processes, batch: dict[str, Any]) -> Callable[[], None]:
    """A function that does one step as the published code does: eager, in float32, one parameter after the other."""
    options, device = config.train, processes.device
    network = build_network(config.model, fast=False).to(device)
    objective: torch.nn.Module = DiffusionLoss(network, options.loss)
    if processes.world > 1:
        objective = DistributedDataParallel(objective, device_ids=[device] if device.type == "cuda" else None)
    optimizer = torch.optim.Adam(network.parameters(), lr=options.optimizer.lr, foreach=False)
    schedule = NoiseSchedule(config.model.beta_schedule.train)
    masked = [(p, (torch.rand_like(p) < config.sparse.density).float()) for p in prunable(network)]

    def step() -> None:
        lr, hr = batch["lr"].to(device), batch["hr"].to(device)
        levels = draw_noise_levels(schedule, len(hr), None).to(device)
        optimizer.zero_grad()
        objective(lr, hr, torch.randn_like(hr), levels, 1.0).backward()
        optimizer.step()
        with torch.no_grad():
            for parameter, mask in masked:
                parameter.mul_(mask)

    return step


def prunable(network: Network) -> Iterable[torch.nn.Parameter]:
    return network.prunable_parameters().values()


# ---------------------------------------------------------------------------------------------------------------------
# The measurements.


def measure(config: Config, processes: Processes, steps: int, repeats: int) -> dict[str, Any]:
    """The measured part of the report."""
    trainer = make_trainer(config, processes)
    masker = trainer.masker
    assert masker is not None, "benchmark_config trains sparse"
    batch = next(iter(trainer.batches()))
    images, density = processes.world * len(batch["hr"]), masker.density
    peak, _ = peak_memory(training_steps(trainer, batch, steps), processes.device)  # with nothing beside
    figures: dict[str, float | None] = {"peak_memory": peak}

    def time_steps(steps: int, **blocks: Callable[[], Any]) -> Seconds:
        return per_call(time_in_turn(blocks, repeats, processes, f"steps: {', '.join(blocks)}"), steps)

    ways = {"sparse": trainer, "dense": make_trainer(config, processes, "sparse", enabled=False)}
    if processes.world > 1:
        ways["alone"] = make_trainer(config, replace(processes, rank=0, world=1))
    seconds = time_steps(steps, **{name: training_steps(way, batch, steps) for name, way in ways.items()})
    figures |= time_masker(masker, repeats, processes)
    del trainer, masker, ways
    free()
    continuous = make_trainer(config, processes, "train", continuous_scale=True)
    seconds |= time_steps(DRAWS * steps, continuous=training_steps(continuous, batch, DRAWS * steps))
    del continuous
    free()
    with default_arithmetic():
        seconds |= time_steps(steps, plain=repeated(plain_step(config, processes, batch), steps))
    free()

    sparse, dense = median(seconds["sparse"]), median(seconds["dense"])
    figures |= {"rate": 1 / sparse, "mask_cost": 100 * (sparse - dense) / sparse}
    figures |= {"matrix_peak": matrix_peak(processes, repeats), "scaling": scaling(seconds, processes)}
    flops = forward_flops(config)
    comparable = processes.device.type == "cuda" and config.name == "faces_16_128" and len(batch["hr"]) == 32
    return {
        "images_per_step": images,
        "density": density,
        "forward_gflop_per_image": flops / 1e9,
        "steps": describe_ways(seconds, images, 3 * flops * images / processes.world, figures["matrix_peak"]),
        "figures": describe_figures(FIGURES, figures, comparable),
    }


def per_call(seconds: Seconds, count: int) -> Seconds:
    """What so many calls took, for one of them."""
    return {name: [value / count for value in values] for name, values in seconds.items()}


def time_masker(masker: Masker, repeats: int, processes: Processes, count: int = 20) -> dict[str, float]:
    """Milliseconds of what the masker does after every step, and of an update."""
    block = {"apply": repeated(masker.apply, count)}
    apply = per_call(time_in_turn(block, repeats, processes, "the masks after a step"), count)["apply"]
    update = time_in_turn({"update": masker.update}, repeats, processes, "updates of the masks")["update"]
    return {"mask_apply": 1e3 * median(apply), "update": 1e3 * median(update)}


def forward_flops(config: Config) -> int:
    """Floating-point operations of the loss of one image at full size."""
    images = config.datasets.train
    objective = DiffusionLoss(build_network(config.model, initialised=False).to("meta"), config.train.loss)
    lr, hr = (torch.empty(1, 3, side, side, device="meta") for side in (images.l_resolution, images.r_resolution))
    with FlopCounterMode(display=False) as counter:
        objective(lr, hr, hr, torch.empty(1, device="meta"), 1.0)
    return counter.get_total_flops()


def scaling(seconds: Seconds, processes: Processes) -> float | None:
    """Rate of all processes together, in % of the sum of what each does by itself; None for one process."""
    if processes.world == 1:
        return None
    return 100 * fmean(processes.gather(median(seconds["alone"]))) / median(seconds["sparse"])


# ---------------------------------------------------------------------------------------------------------------------
# The report.


def describe(config: Config, processes: Processes, arguments: Namespace) -> dict[str, Any]:
    """What is measured, where and how."""
    network = build_network(config.model, initialised=False)
    images = config.datasets.train
    return {
        "benchmark": "training",
        **environment(processes.device),
        "processes": processes.world,
        "config": config.name,
        "overrides": arguments.overrides,
        "parameters": parameter_count(network),
        "prunable": sum(parameter.numel() for parameter in prunable(network)),
        "l_resolution": images.l_resolution,
        "r_resolution": images.r_resolution,
        "batch_size": images.batch_size,
        "steps_per_measurement": arguments.steps,
        "measurements": arguments.repeats,
    }


def describe_ways(seconds: Seconds, images: int, flops: float, peak: float | None) -> dict[str, Any]:
    """{way to train: its times, its rates over all processes, its speed beside plain, what each device computes}.

    flops: of a step at full size on each device; it is not told for continuous scale, where sizes vary.
    """
    ways = {}
    for name in STEPS:
        if name not in seconds:
            continue
        time = spread(seconds[name])
        tflops = flops / time["median"] / 1e12 if name != "continuous" else None
        ways[name] = {
            "label": STEPS[name],
            "seconds": time,
            "steps_per_second": 1 / time["median"],
            "images_per_second": images / time["median"],
            "ratio": median(seconds["plain"]) / time["median"],
            "tflops": tflops,
            "share_of_peak": tflops / peak if tflops and peak else None,
        }
    return ways


def title(report: dict[str, Any]) -> str:
    return (
        f"{report['config']}: {report['parameters']:,} parameters, density {report['density']:.4g}, "
        f"{report['l_resolution']} → {report['r_resolution']}\n"
        f"batch {report['batch_size']} × {report['processes']} process{'es' if report['processes'] > 1 else ''} "
        f"on {report['device']}\n"
        f"medians of {report['measurements']} measurements of {report['steps_per_measurement']} steps; "
        "images/s of all processes, TFLOP/s of each"
    )


def as_table(report: dict[str, Any]) -> str:
    header = ["", "", "steps/s", "images/s", "× plain", "TFLOP/s", "of peak", "target"]
    rows = [way_row(way) for way in report["steps"].values()]
    rows += figure_rows(FIGURES, report["figures"], len(header))
    return table(header, rows)


def way_row(way: dict[str, Any]) -> list[str]:
    return [
        way["label"],
        f"{1e3 * way['seconds']['median']:.1f} ms",
        show(way["steps_per_second"], "{:.2f}"),
        show(way["images_per_second"], "{:.1f}"),
        show(way["ratio"], "{:.2f}"),
        show(way["tflops"], "{:.2f}"),
        show(way["share_of_peak"], "{:.1%}"),
        "",
    ]
