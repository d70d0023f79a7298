"""How benchmarks/frontier.py measures chains on trained weights."""

import logging
import time
from argparse import Namespace
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.helpers.frontier_chains import by_reason, chains_of
from benchmarks.helpers.frontier_report import add_row, as_table, describe, describe_chain, merge, save_plots, title
from benchmarks.helpers.measuring import free
from benchmarks.helpers.reports import publish, start_log, without_bicubic
from benchmarks.helpers.trained_network import Setting, load
from core.device import is_out_of_memory, synchronize
from core.errors import UserError
from core.metrics.perceptual_metrics import Lpips, load_perceptual_metrics
from core.report.json_files import write_json
from core.report.pictures import comparison
from core.sampling.super_resolution import Sampling, super_resolve
from core.sampling.trained_sizes import TrainedSizes
from core.validation import COMPARED, Pictures, batches, measure, pictures_of, seed_of
from data.errors import reason
from data.images import save_png
from model.network import Network


def answer(arguments: Namespace) -> None:
    """Measures the chains of the command line, or joins reports, and tells what came out."""
    report = merge(arguments.merge) if arguments.merge else measure_chains(arguments, start_log("frontier"))
    pictures = save_plots(report, arguments.plot)
    publish(title(report), as_table(report), report, arguments.json)
    print(f"as pictures: {', '.join(map(str, pictures))}")


# ---------------------------------------------------------------------------------------------------------------------
# What is measured.


def measure_chains(arguments: Namespace, log: logging.Logger) -> dict[str, Any]:
    """The report on the chains of the command line, written anew, like the pictures, after each of them."""
    if arguments.save:
        make_folder(arguments.save)
    with TemporaryDirectory() as folder:
        setting = load(arguments, Path(folder))
    chains, left_out = chains_of(arguments.chains, setting)
    for why, names in by_reason(left_out).items():
        log.info(f"left out: {names} ({why})")
    report = describe(setting, arguments) | {"left_out": left_out, "bicubic": None, "rows": []}
    perceptual = load_perceptual_metrics(setting.processes.device)
    if "lpips" in perceptual.missing:
        log.info(f"LPIPS is not measured: {perceptual.missing['lpips']}")
    for number, (name, sampling) in enumerate(chains.items(), start=1):
        try:
            measures, pictures = measure_chain(
                setting, sampling, f"{number}/{len(chains)} {name}", perceptual.lpips, log
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            left_out[name] = f"out of memory at batch {setting.batch}; see --batch"
            log.info(f"left out: {name} ({left_out[name]})")
            continue
        add_row(report, {"chain": name} | describe_chain(sampling), measures)
        write_json(report, arguments.json)
        save_plots(report, arguments.plot)
        if arguments.save:
            save_png(comparison(pictures), Path(arguments.save) / f"{name.replace('/', '_')}.png")
        log.info(f"{name}: {measures['psnr']:.2f} dB, {measures['seconds']:.4g} s/image")
    if not report["rows"]:
        raise UserError(f"no chain could be measured: {'; '.join(by_reason(left_out))}")
    return report


def make_folder(path: str) -> None:
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--save {path}: cannot make this folder: {reason(error)}") from None


def measure_chain(
    setting: Setting, sampling: Sampling, label: str, lpips: Lpips | None, log: logging.Logger
) -> tuple[dict[str, Any], list[Pictures]]:
    """(the means of what `core.validation.measure` gives, each image's measures, and the seconds an image takes; the
    pictures of the first images)"""
    free()  # what the chain before took
    network = deepcopy(setting.network)
    entries: list[dict[str, float]] = []
    pictures: list[Pictures] = []
    seconds: list[float] = []
    for indices in batches(range(len(setting.samples)), setting.batch, label, setting.processes, log):
        samples = [setting.samples[index] for index in indices]
        sr, taken = sample_batch(network, setting, sampling, samples)
        if len(samples) == setting.batch:  # a smaller last one is captured anew, and slower for each image
            seconds.append(taken)
        results = [pictures_of(sample, image) for sample, image in zip(samples, sr, strict=True)]
        entries += [measure(result, lpips) for result in results]
        pictures += results[: COMPARED - len(pictures)]
    if len(seconds) == 1:
        seconds.append(sample_batch(network, setting, sampling, setting.samples[: setting.batch])[1])
    measures = {
        **{key: fmean(entry[key] for entry in entries) for key in entries[0]},
        "seconds": median(seconds[1:]),
        "first_seconds": seconds[0],
        "batch_seconds": seconds[1:],
        "per_image": [without_bicubic(entry)[0] for entry in entries],
    }
    return measures, pictures


def sample_batch(
    network: Network, setting: Setting, sampling: Sampling, samples: Sequence[dict[str, Any]]
) -> tuple[torch.Tensor, float]:
    """(SR (B,3,H,W), seconds for each of its images)"""
    lr = torch.stack([sample["lr"] for sample in samples]).to(setting.processes.device)
    seeds = [seed_of(sample, sampling) for sample in samples]
    synchronize(setting.processes.device)
    began = time.perf_counter()
    sr = super_resolve(network, lr, samples[0]["hr"].shape[-2:], sampling, seeds, TrainedSizes.of(setting.config))
    synchronize(setting.processes.device)
    return sr, (time.perf_counter() - began) / len(samples)
