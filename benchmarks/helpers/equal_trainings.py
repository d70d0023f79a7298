"""Trainings that are alike but for a few keys of the config, as density.py and tuning.py compare them.

All start from the same initial weights and see the same images and noise in the same order, unless a variant changes
that very thing, for the same steps. Each is measured by its EMA weights: the training loss on the validation images at
noise that is the same for all, and PSNR, SSIM and, where its weights are here, LPIPS of sampled images.
"""

import itertools
import logging
import math
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.helpers.comparison import Comparison, Variant
from benchmarks.helpers.equal_trainings_report import Setting, add_row, as_table, describe, merge, title
from benchmarks.helpers.measuring import free
from benchmarks.helpers.pictures import save
from benchmarks.helpers.reports import matching, publish, start_log
from core.config import Config, changed, load_config
from core.config.sections import SparseSection
from core.device import pick_device, synchronize
from core.errors import UserError
from core.metrics.perceptual_metrics import load_perceptual_metrics
from core.processes import Processes
from core.report.json_files import write_json
from core.sampling.super_resolution import Sampling
from core.sampling.trained_sizes import TrainedSizes
from core.training.trainer import Trainer
from core.validation import Pictures, batches, measure, pictures_of, super_resolve_samples
from data import DataError, SRDataset
from data.demo import make_demo
from data.files import make_writable
from data.images import save_png
from model.conditioning import relative_scale
from model.diffusion import DiffusionLoss
from model.fast import release
from model.network import Network
from model.schedule import NoiseSchedule
from sparse import pack

SMALL_CONFIG = {
    "datasets.train.batch_size": 2,
    "datasets.val.l_resolution": 16,
    "datasets.val.r_resolution": 64,
    "datasets.val.data_len": 3,
    "train.warmup": 2,
    "train.ema_scheduler.step_start_ema": 2,
    "train.ema_scheduler.ema_decay": 0.5,
    "sparse.update_every": 2,
}
Masks = Mapping[str, torch.Tensor]  # layer -> which of its weights are active
Stage = tuple[Config, int]  # what is trained, and the step at which it ends

NOISE_LEVELS = 16  # at which an image's loss is taken
NOISE_SEED = 0  # plus the image's index: of the levels and the noise


class Diverged(UserError):
    """A loss that is no number any more."""


# ---------------------------------------------------------------------------------------------------------------------
# The command.


def answer(comparison: Comparison, arguments: Namespace) -> None:
    """Trains the variants of the command line, or joins reports, and tells what came out."""
    log = start_log(comparison.name)
    if arguments.merge:
        report = merge(comparison, arguments.merge, log)
        save(comparison.picture(report), arguments.plot)
    else:
        with TemporaryDirectory() as folder:
            report = run_variants(comparison, arguments, Path(folder), log)
    publish(title(report), as_table(comparison, report), report, arguments.json)
    print(f"the losses as a picture: {arguments.plot}")


def run_variants(comparison: Comparison, arguments: Namespace, folder: Path, log: logging.Logger) -> dict[str, Any]:
    """The report on the variants of the command line, written with its picture after each of them."""
    names = variants_of(comparison, arguments.variants)
    setting = load(arguments, folder, log)
    stages = {name: stages_of(comparison.variants[name], name, setting.config, folder) for name in names}
    report = describe(comparison, setting, arguments, NOISE_LEVELS)
    for number, name in enumerate(names, start=1):
        try:
            measures = measure_variant(setting, stages[name], name, f"{number}/{len(names)} {name}")
        except Diverged as error:
            report["left_out"][name] = str(error)
            log.info(f"left out: {name}: {error}")
            continue
        add_row(comparison, report, {"variant": name, **told_of(comparison.variants[name]), **measures})
        write_json(report, arguments.json)
        save(comparison.picture(report), arguments.plot)
        told = f"{measures['psnr']:.2f} dB, {measures['megabytes']:.2f} MB, {measures['minutes']:.2f} minutes"
        log.info(f"{name}: validation loss {measures['loss']:.5f}, {told}")
    if not report["rows"]:
        raise UserError(f"no variant could be measured: {next(iter(report['left_out'].values()))}")
    return report


def variants_of(comparison: Comparison, asked: str) -> list[str]:
    """The names of --variants, in their order."""
    there = comparison.variants
    return matching(there, asked, lambda pattern: f"--variants {pattern}: no variant; there are {', '.join(there)}")


def told_of(variant: Variant) -> dict[str, Any]:
    """What a row says of what it changed."""
    told = {"changes": dict(variant.changes)}
    return told if variant.until is None else told | {"first": dict(variant.first), "until": variant.until}


# ---------------------------------------------------------------------------------------------------------------------
# What is measured.


def load(arguments: Namespace, folder: Path, log: logging.Logger) -> Setting:
    """The setting of the command line; the images of --small go to the folder."""
    flags: dict[str, Any] = {"phase": "train"}
    if arguments.small:
        make_demo(folder / "demo", count=8)
        flags |= SMALL_CONFIG
        flags |= {f"datasets.{key}.dataroot": str(folder / "demo" / key) for key in ("train", "val")}
    config = load_config(arguments.config, arguments.overrides, flags)
    config = changed(config, {"train.n_iter": arguments.steps or config.train.n_iter}, "--steps")
    sets = {key: SRDataset(images, train=False) for key, images in config.datasets.validation.items()}
    if not sets:
        raise UserError(f"{arguments.config}: datasets.val is missing: the variants are compared on its images")
    processes = Processes(0, 1, pick_device(arguments.device))
    perceptual = load_perceptual_metrics(processes.device, config.metrics.lpips_weights, config.metrics.fid_weights)
    saved = make_writable(arguments.save_images) if arguments.save_images else None
    return Setting(config, sets, arguments.images, saved, perceptual.lpips, processes, log)


def stages_of(variant: Variant, name: str, config: Config, folder: Path) -> list[Stage]:
    """[(config, the step at which it ends)] of a variant, whose experiment goes to the folder."""
    last = stage_config(config, variant.changes, name, folder)
    steps = last.train.n_iter
    if variant.until is None:
        return [(last, steps)]
    first = stage_config(config, {**variant.changes, **variant.first}, name, folder)
    return [(first, round(variant.until * steps)), (last, steps)]


def stage_config(config: Config, changes: Mapping[str, Any], name: str, folder: Path) -> Config:
    """The config of one stage. Raises UserError where it, or the images that it asks for, cannot be trained on."""
    config = changed(config, {**changes, "path.root": str(folder / name)}, f"variant {name}")
    try:
        SRDataset(config.datasets.train, train=True)  # better an error now than after the trainings before it
    except DataError as error:
        raise UserError(f"variant {name}: {error}") from None
    return config


def measure_variant(setting: Setting, stages: Sequence[Stage], name: str, label: str) -> dict[str, Any]:
    """Trains a variant, and what there is to tell of it. Its images go to a folder of its name."""
    trainer, first, train_losses, seconds = train_stages(setting, stages, label)
    masks, sparse = trainer.masker.masks if trainer.masker else {}, trainer.config.sparse
    size = packed_bytes(trainer.ema.network, masks)
    return {
        "sparse": sparse.to_dict(),
        "density": trainer.density,
        "growth": growth_of(sparse),
        "kept": share_kept(first, masks),
        "train_loss": train_losses[-1],
        "train_losses": train_losses,
        "bytes": size,
        "megabytes": size / 1e6,
        "seconds": seconds,
        "minutes": seconds / 60,
        **validation_losses(trainer, setting, label),
        **sampled_quality(trainer.ema.network, setting, trainer.config, setting.saved and setting.saved / name, label),
    }


def train_stages(setting: Setting, stages: Sequence[Stage], label: str) -> tuple[Trainer, Masks, list[float], float]:
    """(the trainer at the last step, its first masks, the mean loss of each tenth of the way, seconds of training)."""
    trainer: Trainer | None = None
    first: Masks = {}
    losses: list[float] = []
    seconds, resume = 0.0, None
    for config, end in stages:
        begins, trainer = trainer is None, None  # its memory, and that of the variant before, is given back first
        free()
        trainer = Trainer(config, setting.processes, setting.log, resume)
        if begins and trainer.masker:
            first = dict(trainer.masker.masks)
        seconds += train(trainer, end, losses, label)
        if end < config.train.n_iter:
            trainer.save()
            resume = trainer.folder("checkpoint")
    assert trainer is not None, "a variant has a stage"
    return trainer, first, losses, seconds


def train(trainer: Trainer, end: int, losses: list[float], label: str) -> float:
    """Trains to step `end` -> seconds; the mean loss of each tenth of all steps that is completed joins `losses`."""
    steps, first, before = trainer.options.n_iter, trainer.step, trainer.step
    tenths = {*(steps * n // 10 for n in range(1, 11)), end}
    began = time.perf_counter()
    remaining = itertools.islice(trainer.batches(), end - first)
    with tqdm(remaining, label, steps, initial=first, disable=None, unit="step") as bar:
        for batch in bar:
            trainer.train_step(batch)
            if trainer.step in tenths:
                losses.append(mean_loss(trainer, trainer.step - before))
                before = trainer.step
                bar.set_postfix(loss=f"{losses[-1]:.4f}")
                if bar.disable:
                    rate = (trainer.step - first) / (time.perf_counter() - began)
                    trainer.log.info(f"{label}: step {before}/{steps}, loss {losses[-1]:.4f}, {rate:.2f} steps/s")
    synchronize(trainer.processes.device)
    trainer.board.close()
    return time.perf_counter() - began


def mean_loss(trainer: Trainer, steps: int) -> float:
    """The mean of the losses summed over so many steps, which are forgotten."""
    loss = trainer.losses.item() / steps
    trainer.losses.zero_()
    if not math.isfinite(loss):
        raise Diverged(f"the training loss is {loss} at step {trainer.step}")
    return loss


def growth_of(sparse: SparseSection) -> str | None:
    """The growth rule of a `sparse` section, for a reader; None where nothing grows."""
    return sparse.growth if sparse.enabled and sparse.prune_rate else None


def share_kept(first: Masks, last: Masks) -> float:
    """The share of the weights active at first that are active at last; 1 where nothing is masked."""
    kept = sum(int((mask & last[name]).sum()) for name, mask in first.items())
    return kept / sum(int(mask.sum()) for mask in first.values()) if first else 1.0


def packed_bytes(network: torch.nn.Module, masks: Masks) -> int:
    """Of the tensors that a network file of the checkpoint holds."""
    return sum(tensor.nbytes for tensor in pack(network.state_dict(), masks).values())


def validation_losses(trainer: Trainer, setting: Setting, label: str) -> dict[str, Any]:
    """The mean loss over all validation images, and that of each image by validation set."""
    losses: dict[str, list[float]] = {}
    config = trainer.config
    objective = DiffusionLoss(trainer.ema.network, config.train.loss)
    for key, dataset in setting.sets.items():
        shown = f"{label}, loss on {config.datasets[key].name}"
        samples = (dataset[i] for (i,) in batches(range(len(dataset)), 1, shown, setting.processes, setting.log))
        losses[key] = [image_loss(objective, sample, trainer.schedule, config.magnification) for sample in samples]
    mean = fmean(itertools.chain(*losses.values()))
    if not math.isfinite(mean):
        raise Diverged(f"the validation loss is {mean}")
    return {"loss": mean, "losses": losses}


@torch.no_grad()
def image_loss(objective: torch.nn.Module, sample: dict[str, Any], schedule: NoiseSchedule, factor: float) -> float:
    """The mean loss of one sample of a dataset at NOISE_LEVELS noise levels, in float32.

    Levels and noise follow from the image's index alone. factor: the magnification that the network is trained for.
    """
    device = next(objective.parameters()).device
    generator = torch.Generator().manual_seed(NOISE_SEED + sample["index"])
    levels = stratified_noise_levels(schedule, NOISE_LEVELS, generator).to(device)
    noise = torch.randn((NOISE_LEVELS, *sample["hr"].shape), generator=generator).to(device)
    lr, hr = (sample[key].to(device).repeat(NOISE_LEVELS, 1, 1, 1) for key in ("lr", "hr"))
    scale = relative_scale(hr.shape[-2:], lr.shape[-2:], factor)
    return objective(lr, hr, noise, levels, scale).item()


def stratified_noise_levels(schedule: NoiseSchedule, number: int, generator: torch.Generator) -> torch.Tensor:
    """γ (number,) on the CPU, one of each part of the timesteps: together distributed as in training, see
    `model.diffusion.draw_noise_levels`."""
    table = torch.cat([torch.ones(1, dtype=torch.float64), schedule.noise_levels])
    drawn = torch.rand(number, generator=generator, dtype=torch.float64)
    place = (torch.arange(number) + drawn) / number * schedule.n_timestep  # γ is linear between whole numbers
    below = place.long().clamp(max=schedule.n_timestep - 1)
    return torch.lerp(table[below], table[below + 1], place - below).float()


def sampled_quality(
    network: Network, setting: Setting, config: Config, saved: Path | None, label: str
) -> dict[str, Any]:
    """The means of what `core.validation.measure` gives over all sampled images, and each image's by set. The images go
    to SET/NAME.png in the folder `saved`, if there is one."""
    entries: dict[str, list[dict[str, float]]] = {}
    sampling, trained = Sampling.of(config.sample, network.schedule), TrainedSizes.of(config)
    for key, dataset in setting.sets.items():
        spec, shard = config.datasets[key], range(min(setting.images, len(dataset)))
        entries[key] = []
        for indices in batches(shard, spec.batch_size, f"{label}, {spec.name}", setting.processes, setting.log):
            samples = [dataset[index] for index in indices]
            sr = super_resolve_samples(network, sampling, samples, trained, setting.log.info).sr
            pictures = [pictures_of(sample, image) for sample, image in zip(samples, sr, strict=True)]
            entries[key] += [measure(some, setting.lpips) for some in pictures]
            if saved:
                save_images(saved / key, samples, pictures)
    release(network)
    every = list(itertools.chain(*entries.values()))
    return {key: fmean(entry[key] for entry in every) for key in every[0]} | {"per_image": entries}


def save_images(folder: Path, samples: Sequence[dict[str, Any]], pictures: Sequence[Pictures]) -> None:
    """Writes what was made of each sample of a dataset under the name that it has there."""
    make_writable(folder)
    for sample, some in zip(samples, pictures, strict=True):
        save_png(some.sr, folder / f"{sample['name']}.png")
