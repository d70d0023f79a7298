"""How benchmarks/data.py measures, and what it reports."""

import os
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.helpers.measuring import tell
from benchmarks.helpers.reports import environment, publish, spread, table
from core.config import load_config
from core.device import pick_device, synchronize
from data import SRDataset, train_loader
from data.demo import make_demo
from data.paths import is_file
from data.prepare_data import parse_size, prepare

TARGET_WORKERS = 8
TARGET_RATE = 640  # the face network at 20 steps/s of 32 images
TARGET_RATE_OF_CROPS = 1500  # the small network, at 47


def answer(arguments: Namespace) -> None:
    """Measures what the command line asks for, prints the table and writes the report."""
    device = pick_device(arguments.device)
    with TemporaryDirectory() as folder:
        stores = {name: SRDataset(spec, train=True) for name, spec in specs(arguments, Path(folder)).items()}
        rows = [
            {"store": name, "workers": workers, **measure(name, images, workers, arguments, device)}
            for name, images in stores.items()
            for workers in arguments.workers
        ]
        report = describe(stores, arguments, device) | {"rows": rows}
    publish(title(report), as_table(report), report, arguments.json)


def specs(arguments: Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """{name: a section of `datasets`}: that of --config, --dataroot, or photographs in both kinds of store."""
    if arguments.config:
        config = load_config(arguments.config, arguments.overrides, {"phase": "train"})
        return {config.name: config.datasets.train.to_dict()}
    low, high = parse_size(arguments.size)
    if arguments.dataroot:
        kind = "lmdb" if is_file(Path(arguments.dataroot) / "data.mdb") else "img"
        roots = {"lmdb" if kind == "lmdb" else "folder": arguments.dataroot}
    else:
        make_demo(folder, size=high, count=arguments.images)
        roots = {
            name: prepare(folder / "train", folder / name, (low, high), as_lmdb=name == "lmdb").folder
            for name in ("folder", "lmdb")
        }
    kinds = {"folder": "img", "lmdb": "lmdb"}
    alike = {"augment": True, "l_resolution": low, "r_resolution": high}
    return {name: {"dataroot": str(root), "datatype": kinds[name], **alike} for name, root in roots.items()}


def measure(name: str, images: SRDataset, workers: int, arguments: Namespace, device: torch.device) -> dict[str, Any]:
    """{"images_per_second": ...} that a number of reading processes gives, once they are at it.

    Where the main process reads, also {"images_per_cpu_second": ...}: what a core gives that does nothing else.
    """
    tell(f"{name}, {workers} workers")
    loader = train_loader(images, arguments.batch, seed=0, workers=workers, pin_memory=device.type == "cuda")
    batches = iter(loader)
    ahead = workers * (loader.prefetch_factor or 0)
    consume(islice(batches, ahead + 1), device)  # so many may lie ready
    count = arguments.batches * arguments.batch
    rates, core_rates = [], []
    for _ in range(arguments.repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        consume(islice(batches, arguments.batches), device)
        rates.append(count / (time.perf_counter() - start))
        core_rates.append(count / (time.process_time() - cpu_start))
    return {"images_per_second": spread(rates)} | ({} if workers else {"images_per_cpu_second": spread(core_rates)})


def consume(batches: Iterable[dict[str, Any]], device: torch.device) -> None:
    for batch in batches:
        for key in ("lr", "hr"):
            batch[key].to(device, non_blocking=True)
    synchronize(device)


# ---------------------------------------------------------------------------------------------------------------------
# The report.


def describe(stores: Mapping[str, SRDataset], arguments: Namespace, device: torch.device) -> dict[str, Any]:
    first = next(iter(stores.values()))
    target = TARGET_RATE_OF_CROPS if first.use_crop else TARGET_RATE
    return {
        "benchmark": "data",
        **environment(device),
        "cores": os.cpu_count(),
        "dataroot": arguments.config or arguments.dataroot,
        "overrides": arguments.overrides,
        "images": {name: len(images) for name, images in stores.items()},
        "size": (first.l, first.r),
        "batch_size": arguments.batch,
        "batches_per_measurement": arguments.batches,
        "measurements": arguments.repeats,
        "target": {"images_per_second": target, "workers": TARGET_WORKERS},
    }


def title(report: dict[str, Any]) -> str:
    low, high = report["size"]
    count = " and ".join(f"{count} ({name})" for name, count in report["images"].items())
    return (
        f"{report['dataroot'] or 'crops of photographs'}, {low} and {high} pixels: {count} images, "
        f"batch {report['batch_size']}\n{report['device']}; {report['cores']} cores\n"
        f"medians of {report['measurements']} measurements of {report['batches_per_measurement']} batches"
    )


def as_table(report: dict[str, Any]) -> str:
    rows = []
    for row in report["rows"]:
        rate = row["images_per_second"]
        cells = [f"{rate['median']:.0f}", f"{rate['least']:.0f} to {rate['most']:.0f}"]
        steps = f"{rate['median'] / report['batch_size']:.1f}"
        core = f"{row['images_per_cpu_second']['median']:.0f}" if "images_per_cpu_second" in row else ""
        target = f"≥ {report['target']['images_per_second']} images/s" if row["workers"] == TARGET_WORKERS else ""
        rows.append([row["store"], str(row["workers"]), *cells, steps, core, target])
    return table(["", "workers", "images/s", "range", "batches/s", "images/s of a core", "target"], rows)
