"""Validation: every image of a set is super-resolved, measured beside bicubic upsampling, saved and reported."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from core.config import Config
from core.device import describe, synchronize, versions
from core.errors import Interrupted, UserError, is_of_user
from core.experiment import experiment_folder
from core.metrics.image_metrics import LIBRARIES, mean_and_deviation
from core.metrics.image_metrics import measure as measure_image
from core.metrics.perceptual_metrics import Inception, Lpips, distances, load_perceptual_metrics
from core.network_size import active_share
from core.processes import Processes
from core.report.json_files import write_json
from core.report.page import write_page
from core.report.pictures import comparison, grid
from core.report.runs import read_runs
from core.report.tables import validation_table
from core.sampling.chain_progress import Say, TileProgress, duration, progress_of_chain
from core.sampling.memory import Fitting
from core.sampling.super_resolution import Callback, Sampling, super_resolve
from core.sampling.trained_sizes import TrainedSizes
from data import DataError, SRDataset
from data.images import resize, save_png
from data.paths import is_folder
from data.tensors import to_image
from model import Network

COMPARED = 8  # images in the comparison picture
CHAINS = 4  # images whose chain is saved as a process grid
STAGES = 10  # estimates in a process grid

Sample = dict[str, Any]  # of the dataset: lr, hr, index, name
Report = dict[str, Any]
Interruptible = Callable[[Callable[[], Any]], Any]


T = TypeVar("T")


class CannotValidate(UserError):
    """A validation cannot go on, and all processes know."""


class SuperResolved(NamedTuple):
    """What became of a batch."""

    sr: Tensor  # (B, 3, H, W)
    stages: list[Tensor]  # of the chains, to save
    seconds: float  # an image


class Pictures(NamedTuple):
    """One image as 8-bit RGB: what went in, what it is compared with, what came out, and the truth."""

    lr: Image.Image
    bicubic: Image.Image
    sr: Image.Image
    hr: Image.Image


class Result(NamedTuple):
    """One validated image: its entry in the report, its pictures if they are to be compared, and, for FID, Inception's
    features of SR, bicubic and HR if they are measured."""

    entry: dict[str, Any]
    pictures: Pictures | None
    features: dict[str, np.ndarray]


class Run(NamedTuple):
    """What is the same for all sets of a validation."""

    network: Network  # on processes.device
    config: Config
    sampling: Sampling
    processes: Processes  # process r validates images r, r + world, ...
    step: int  # training steps behind the network
    log: logging.Logger
    density: float | None = None  # active share of the prunable weights; None: counted
    checkpoint: str | Path | None = None  # where the network came from, for the report


def validate_all(
    network: Network,  # on processes.device
    config: Config,
    sampling: Sampling,
    processes: Processes,
    step: int,  # training steps behind the network
    log: logging.Logger,
    density: float | None = None,  # active share of the prunable weights; None: counted
    checkpoint: str | Path | None = None,  # where the network came from, for the report
    interruptible: Interruptible = lambda work: work(),  # does the work -> its result, or None where a signal ended it
) -> dict[str, Report]:
    """Validates on `datasets.val` and every other validation set -> {its key: what `validate` returns}.

    Raises, on all processes, Interrupted where one was interrupted, and CannotValidate where one could not go on.
    """
    opened = or_problem(lambda: open_sets(config))
    for problem in processes.gather(opened if isinstance(opened, str) else None):
        if problem:
            raise CannotValidate(problem)
    assert not isinstance(opened, str)
    run = Run(network, config, sampling, processes, step, log, density, checkpoint)
    return {key: validate(run, key, dataset, interruptible) for key, dataset in opened.items()}


def check_validation(config: Config, device: torch.device) -> None:
    """Raises DataError or UserError where the sets or the weights of the metrics are not there: better now than after
    an hour."""
    open_sets(config)
    load_perceptual_metrics(device, config.metrics.lpips_weights, config.metrics.fid_weights)


def open_sets(config: Config) -> dict[str, SRDataset]:
    """{its key: each validation set}, of which the first image could be read.

    Raises DataError, which names the key, and says how to leave out a set of which the folder is missing.
    """
    datasets: dict[str, SRDataset] = {}
    sets = config.datasets.validation
    for key, images in sets.items():
        root = images.dataroot or images.hr_dataroot
        try:
            datasets[key] = SRDataset(images, train=False, section=f"datasets.{key}")
            datasets[key][0]
        except DataError as error:
            where = "" if str(error).startswith(f"datasets.{key}.") else f"datasets.{key}: "
            is_there = root is not None and is_folder(root)
            advice = "" if is_there or len(sets) == 1 else f"; to leave this set out: --set datasets.{key}=null"
            raise DataError(f"{where}{error}{advice}") from None
    return datasets


def validate(
    run: Run,
    key: str,  # the set: "val", or another one of config.datasets
    dataset: SRDataset,  # its images
    interruptible: Interruptible = lambda work: work(),
) -> Report:  # on every process; with its comparison "picture" on the main one
    """Validates one set, as `validate_all`. Writes into the experiment's folder

    results/{sr,hr,lr}/<step>_<index>_{sr,hr,lr}.png    every image
    results/process/<step>_<index>_sr_process.png       ŷ_0 along the chain, as it is made, of the first few
    results/<name>_comparison.png                       LR, bicubic, SR and HR side by side, of the first few
    results/metrics.json                                the report

    and those of a set `val_x` into a folder `val_x` in each of these. The noise of an image has the seed sample.seed +
    index, so that no result depends on processes or batches.
    """
    shard = Shard(run, key, dataset)
    shards = run.processes.gather(interruptible(lambda: or_problem(shard.results)))
    for problem in shards:
        if isinstance(problem, str):
            raise CannotValidate(f"datasets.{key}: {problem}")
    if None in shards:
        raise Interrupted
    results = sorted(chain(*shards), key=lambda result: result.entry["index"])
    files = {"files": relative_folders(shard.folders)}
    report = describe_run(run, key) | files | summary(results, shard.perceptual.missing)
    return publish(report, results, shard.folders, run.log) if run.processes.is_main else report


class Shard:
    """The images of a set that this process validates, and what that takes."""

    def __init__(self, run: Run, key: str, dataset: SRDataset) -> None:
        config, metrics = run.config, run.config.metrics
        self.run, self.dataset, self.images = run, dataset, config.datasets.validation[key]
        self.folders = output_folders(config, key)
        self.perceptual = load_perceptual_metrics(run.processes.device, metrics.lpips_weights, metrics.fid_weights)
        self.fits = Fitting(self.images.batch_size, run.sampling, run.log.info)
        self.trained = TrainedSizes.of(config)

    def results(self) -> list[Result]:
        """Super-resolves, saves and measures the images, as many at once as fit into memory."""
        run, results = self.run, list[Result]()
        shard = range(run.processes.rank, len(self.dataset), run.processes.world)
        for indices in batches(shard, self.images.batch_size, self.images.name, run.processes, run.log):
            left: Sequence[Sample] = [self.dataset[index] for index in indices]
            while left:
                some, made = self.fits.do_some(run.network, left, self.super_resolve)
                first = not results
                results += [self.result_of(sample, made, n, first) for n, sample in enumerate(some)]
                left = left[len(some) :]
        return results

    def super_resolve(self, samples: Sequence[Sample], sampling: Sampling) -> SuperResolved:
        return super_resolve_samples(self.run.network, sampling, samples, self.trained, self.run.log.info)

    def result_of(self, sample: Sample, made: SuperResolved, n: int, first_batch: bool) -> Result:
        """The n-th image of a batch."""
        pictures = pictures_of(sample, made.sr[n])
        save(pictures, [x0[n] for x0 in made.stages], self.folders, self.run.step, sample["index"])
        entry = identity(sample, self.run.sampling) | measure(pictures, self.perceptual.lpips)
        entry |= {"seconds": made.seconds, "first_batch": first_batch}
        shown = pictures if sample["index"] < COMPARED else None
        return Result(entry, shown, features_of(pictures, self.perceptual.inception))


def or_problem(work: Callable[[], T]) -> T | str:
    """The result of some work, or what the user can mend of what went wrong: one process's fault is told to all."""
    try:
        return work()
    except Exception as error:
        if not is_of_user(error):
            raise
        return str(error)


def write_pages(config: Config, log: logging.Logger) -> None:
    """The pages of the reports that `validate_all` wrote, `report.html` beside each. Raises DataError."""
    for key in config.datasets.validation:
        folder = output_folders(config, key)["results"]
        write_page(read_runs([folder]), folder / "report.html")
        log.info(f"to look at: {folder / 'report.html'}")


def output_folders(config: Config, key: str) -> dict[str, Path]:
    """{"results", "results_sr", ...: folder} of one validation set, made where they are missing."""
    folder, subfolder = experiment_folder(config), "" if key == "val" else key
    names = ("results", "results_sr", "results_hr", "results_lr", "process")
    folders = {name: folder(name) / subfolder for name in names}
    for path in folders.values():
        path.mkdir(parents=True, exist_ok=True)
    return folders


def relative_folders(folders: dict[str, Path]) -> dict[str, str]:
    """{"sr", "hr", "lr", "process": its folder, as seen from that of the report}, so that all may be moved together."""
    results = folders["results"]
    kinds = {key.removeprefix("results_"): path for key, path in folders.items() if key != "results"}
    return {kind: os.path.relpath(path, results) for kind, path in kinds.items()}


def batches(shard: range, batch_size: int, name: str, processes: Processes, log: logging.Logger) -> Iterator[range]:
    """The indices of a shard, batch by batch, under a progress bar; where no terminal shows it, every tenth of the way
    is a line of the log, with the time left."""
    began = time.perf_counter()
    with tqdm(total=len(shard), desc=name, unit="image", disable=None if processes.is_main else True) as bar:
        for start in range(0, len(shard), batch_size):
            indices = shard[start : start + batch_size]
            yield indices
            bar.update(len(indices))
            done = start + len(indices)
            if bar.disable and 10 * done // len(shard) > 10 * start // len(shard):
                left = (time.perf_counter() - began) / done * (len(shard) - done)
                log.info(f"{name}: {done} of {len(shard)} images" + (f", about {duration(left)} left" if left else ""))


def super_resolve_samples(
    network: Network, sampling: Sampling, samples: Sequence[Sample], trained: TrainedSizes, say: Say
) -> SuperResolved:
    """Super-resolves samples of a dataset; of a long chain, `say` is told how far it is."""
    device = next(network.parameters()).device
    lr = torch.stack([sample["lr"] for sample in samples]).to(device)
    size = samples[0]["hr"].shape[-2:]
    seeds = [seed_of(sample, sampling) for sample in samples]
    stages, recording = record_chain(sampling, wanted=any(sample["index"] < CHAINS for sample in samples))
    chains = sampling.chains(trained, size, lr.shape[-2:])
    progress = progress_of_chain(sampling, (len(samples), *size), device, say, chains)
    tiles = TileProgress(sampling, say)

    synchronize(device)
    began = time.perf_counter()
    sr = super_resolve(network, lr, size, sampling, seeds, trained, both(recording, progress), tiles)
    synchronize(device)
    return SuperResolved(sr, stages or [sr], (time.perf_counter() - began) / len(samples))


def both(first: Callback | None, second: Callback | None) -> Callback | None:
    """One callback that calls two, of which each may be missing."""
    if first is None or second is None:
        return first or second

    def callback(order: int, timestep: int, x: Tensor, x0: Tensor) -> None:
        first(order, timestep, x, x0)
        second(order, timestep, x, x0)

    return callback


def record_chain(sampling: Sampling, wanted: bool) -> tuple[list[Tensor], Callback | None]:
    """(stages, callback): the callback adds ŷ_0 (B,3,H,W) to the stages, at even distances up to the last step; None
    where that is not wanted."""
    stages: list[Tensor] = []
    orders = shown_orders(sampling.executed.steps)

    def callback(order: int, timestep: int, x: Tensor, x0: Tensor) -> None:
        if order == 0:  # of the last chain, which is that of the image itself at its own size
            stages.clear()
        if order in orders:
            stages.append(x0)

    return stages, callback if wanted else None


def shown_orders(steps: int) -> list[int]:
    """The orders of the steps whose estimates are shown, the last among them."""
    return sorted({steps * (n + 1) // STAGES - 1 for n in range(STAGES)} - {-1})


def describe_chain(sampling: Sampling) -> dict[str, Any]:
    """The steps of a chain, those that run the encoder, and those shown in a process grid: orders, and timesteps."""
    plan = sampling.executed
    shown = shown_orders(plan.steps)
    timesteps = [plan.timesteps[order] for order in shown]
    return {"steps": plan.steps, "key_steps": list(plan.key_steps), "shown": shown, "timesteps": timesteps}


def pictures_of(sample: Sample, sr: Tensor) -> Pictures:
    """Of a sample, with lr (3, h, w) and hr (3, H, W) in [-1, 1], and its result (3, H, W), so or as uint8 levels."""
    lr, hr = to_image(sample["lr"]), to_image(sample["hr"])
    return Pictures(lr, resize(lr, hr.size), to_image(sr), hr)


def save(pictures: Pictures, stages: Sequence[Tensor], folders: dict[str, Path], step: int, index: int) -> None:
    """The published files of one image."""
    for kind in ("sr", "hr", "lr"):
        save_png(getattr(pictures, kind), folders[f"results_{kind}"] / f"{step}_{index}_{kind}.png")
    if index < CHAINS:
        save_png(grid([[to_image(x0) for x0 in stages]]), folders["process"] / f"{step}_{index}_sr_process.png")


def seed_of(sample: Sample, sampling: Sampling) -> int:
    return sampling.settings.seed + sample["index"]


def identity(sample: Sample, sampling: Sampling) -> dict[str, Any]:
    return {"index": sample["index"], "name": sample["name"], "seed": seed_of(sample, sampling)}


def measure(pictures: Pictures, lpips: Lpips | None = None) -> dict[str, float]:
    """The metrics of the SR image, and those of bicubic upsampling under names that begin with `bicubic_`."""
    lr, bicubic, sr, hr = map(np.asarray, pictures)
    of_bicubic = measure_image(bicubic, hr, lr, lpips)
    return measure_image(sr, hr, lr, lpips) | {f"bicubic_{name}": value for name, value in of_bicubic.items()}


def features_of(pictures: Pictures, inception: Inception | None) -> dict[str, np.ndarray]:
    if inception is None:
        return {}
    return {kind: inception(np.asarray(getattr(pictures, kind))) for kind in ("sr", "bicubic", "hr")}


def summary(results: Sequence[Result], missing: dict[str, str]) -> dict[str, Any]:
    """The part of a report that the images make: how many, means and standard deviations, what the sets are to each
    other, which metrics are missing, and each image by itself.

    `seconds_warm` leaves out the first batch of each process, which pays for memory, kernels and compilation.
    """
    entries = [result.entry for result in results]
    no_measures = ("index", "name", "seed", "first_batch")
    measures = [{name: value for name, value in entry.items() if name not in no_measures} for entry in entries]
    mean, deviation = mean_and_deviation(measures)
    if warm := [entry["seconds"] for entry in entries if not entry["first_batch"]]:
        mean["seconds_warm"] = fmean(warm)
    of_sets = {}
    if results[0].features:
        sr, bicubic, hr = ([result.features[kind] for result in results] for kind in ("sr", "bicubic", "hr"))
        of_bicubic = distances(bicubic, hr)
        of_sets = distances(sr, hr) | {f"bicubic_{name}": value for name, value in of_bicubic.items()}
    means = {"mean": mean, "deviation": deviation, "of_sets": of_sets, "missing": missing}
    return {"images": len(entries), **means, "per_image": entries}


def describe_run(run: Run, key: str) -> dict[str, Any]:
    """The part of a report that says what was validated, and how, so that it can be done again."""
    images = run.config.datasets.validation[key].to_dict()
    kept = ("name", "dataroot", "hr_dataroot", "lr_dataroot", "data_len", "l_resolution", "r_resolution", "degradation")
    return {
        "config": run.config.name,
        "checkpoint": None if run.checkpoint is None else str(run.checkpoint),
        "step": run.step,
        "density": active_share(run.network) if run.density is None else run.density,
        "dataset": {"key": key, **{name: images[name] for name in kept if name in images}},
        "sampling": run.sampling.describe(),
        "key_steps": str(run.sampling.executed),
        "chain": describe_chain(run.sampling),
        "settings": {**run.sampling.settings, "batch_size": images["batch_size"]},
        "device": describe(run.processes.device),
        "processes": run.processes.world,
        "versions": versions(LIBRARIES),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "full_config": run.config.to_dict(),
    }


def publish(report: Report, results: Sequence[Result], folders: dict[str, Path], log: logging.Logger) -> Report:
    """Writes the report and its picture, logs its table, and returns it with the picture."""
    picture = comparison([result.pictures for result in results if result.pictures])
    name = report["dataset"]["name"].replace("/", "_")
    save_png(picture, folders["results"] / f"{name}_comparison.png")
    write_json(report, folders["results"] / "metrics.json")
    log.info(f"{validation_table(report)}\nwritten to {folders['results']}")
    return report | {"picture": picture}
