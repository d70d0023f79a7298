"""What density and growth rule cost at equal training.

python benchmarks/density.py                                             every variant, config/faces_16_128_small.yaml
python benchmarks/density.py --steps 20000 --variants 'density-*,dense'  those whose names fit a pattern
python benchmarks/density.py --merge A.json B.json --json OUT.json       joins what two processes trained a share of
python benchmarks/density.py --small                                     the demo's network: seconds on a CPU

The variants train the same network from the same initial weights, on the same images and noise in the same order, for
the same steps, and differ in the config's `sparse` section alone. Each is measured by its EMA weights: the training
loss on the validation images at noise that is the same for all variants, and PSNR and SSIM of sampled images. Loss
differences are paired by image; their standard error tells nothing of how the outcome varies with the training seed.
The report and the plot are written anew after each variant.
"""

import argparse
import hashlib
import itertools
import json
import logging
import math
import sys
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory

if not __package__:  # run as a script: import from the repository, whatever the working directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from tqdm import tqdm

from benchmarks.common import environment, fill_defaults, free, matching, publish, show, start_log, table
from core.command_line import Parser, count
from core.config import check_config, load_config
from core.cross_checks import validation_sets
from core.device import pick_device, synchronize
from core.distributed import Distributed
from core.errors import UserError, one_line_errors
from core.plot import Series, plot
from core.report import write_json
from core.sampling import describe_sampling, trained_factor
from core.training import Trainer
from core.validation import batches, measure, pictures_of, super_resolve_samples
from data import SRDataset
from data.demo import make_demo
from data.images import save_png
from model import build_network
from model.compiled import release
from model.conditioning import relative_scale
from model.diffusion import DiffusionLoss
from sparse import pack

MOMENTUM = {"enabled": True, "growth": "momentum"}
IN_LAYER = {"enabled": True, "density": 0.15, "prune": "magnitude", "redistribution": "nonzero"}  # each keeps its share
DENSITIES = {  # variant -> what it changes in `sparse`
    **{f"density-{percent}": MOMENTUM | {"density": percent / 100} for percent in (5, 10, 15, 25, 50)},
    "dense": {"enabled": False},
}
REFERENCE = "density-15"  # what the others are compared with
RULES = {  # other ways to find the weights, at the density of the reference
    "random": IN_LAYER | {"growth": "random"},  # SET, Mocanu et al. 2018
    "gradient": IN_LAYER | {"growth": "gradient"},  # RigL, Evci et al. 2020
    "static": MOMENTUM | {"density": 0.15, "prune_rate": 0.0},  # the first masks, for ever
    "momentum-in-layer": IN_LAYER | {"growth": "momentum"},  # the rule of growth alone, without moving between layers
    "random-moved": MOMENTUM | {"density": 0.15, "growth": "random"},  # the moving alone
}
VARIANTS = DENSITIES | RULES

FULL = {"config": "config/faces_16_128_small.yaml", "images": 100}
SMALL = {"config": "config/demo.yaml", "images": 2, "steps": 8}
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
NOISE_LEVELS = 16  # at which an image's loss is taken
NOISE_SEED = 0  # plus the image's index: of the levels and the noise
EQUAL = ("benchmark", "config", "steps", "noise_levels", "images", "data", "settings")  # in reports that can be merged
PLACES = ("dataroot", "hr_dataroot", "lr_dataroot", "datatype", "num_workers")  # how data are read, not what they are
COLUMNS = {  # of the table: what it is called, how it is written
    "density": ("density", "{:.4g}"),
    "growth": ("growth", "{}"),
    "loss": ("val loss", "{:.5f}"),
    "difference": (f"- {REFERENCE}", "{:+.5f}"),
    "difference_error": ("±", "{:.5f}"),
    "psnr": ("PSNR, dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "train_loss": ("train loss", "{:.5f}"),
    "megabytes": ("MB packed", "{:.2f}"),
    "minutes": ("minutes", "{:.2f}"),
}


class Diverged(UserError):
    """A loss that is no number any more."""


@one_line_errors()
def main():
    arguments = parse_arguments()
    log = start_log("density")
    if arguments.merge:
        report = merge(arguments.merge, log)
        save_plot(report, arguments.plot)
    else:
        with TemporaryDirectory() as folder:
            report = run_variants(arguments, Path(folder), log)
    publish(title(report), as_table(report), report, arguments.json)
    print(f"the losses as a picture: {arguments.plot}")


def parse_arguments():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-c", "--config", metavar="FILE", help="network, data and training (default: config/faces_16_128_small.yaml)")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    add("--steps", type=count, metavar="N", help="training steps of each variant (default: the config's train.n_iter)")
    add("--variants", default="*", metavar="NAMES", help=f"patterns of names (default: all: {', '.join(VARIANTS)})")
    add("--images", type=count, metavar="N", help="sample the first so many of each validation set (default: 100)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--small", action="store_true", help="few steps of the demo's network on images that are made")
    add("--merge", nargs="+", metavar="FILE", help="join these reports; where two have a variant, the first counts")
    add("--json", default="experiments/benchmarks/density.json", metavar="FILE", help="where the report goes")
    add("--plot", default="experiments/benchmarks/density.png", metavar="FILE", help="where the picture goes")
    arguments = parser.parse_args()
    return fill_defaults(arguments, SMALL if arguments.small else FULL)


def run_variants(arguments, folder, log):
    """The report on the variants of the command line, written with its plot after each of them."""
    names = variants_of(arguments.variants)
    setting = load(arguments, folder, log)
    configs = {name: variant_config(setting.config, name, folder) for name in names}
    report = describe(setting, arguments)
    for number, (name, config) in enumerate(configs.items(), start=1):
        try:
            measures = measure_variant(setting, config, f"{number}/{len(configs)} {name}")
        except Diverged as error:
            report["left_out"][name] = str(error)
            log.info(f"left out: {name}: {error}")
            continue
        add_row(report, {"variant": name} | measures)
        write_json(report, arguments.json)
        save_plot(report, arguments.plot)
        told = f"{measures['psnr']:.2f} dB, {measures['megabytes']:.2f} MB, {measures['minutes']:.2f} minutes"
        log.info(f"{name}: validation loss {measures['loss']:.5f}, {told}")
    if not report["rows"]:
        raise UserError(f"no variant could be measured: {next(iter(report['left_out'].values()))}")
    return report


def variants_of(asked):
    """The names of --variants, in their order."""
    return matching(
        VARIANTS, asked, lambda pattern: f"--variants {pattern}: no variant; there are {', '.join(VARIANTS)}"
    )


# ---------------------------------------------------------------------------------------------------------------------
# What is measured.


@dataclass(frozen=True)
class Setting:
    """What the variants share."""

    config: dict
    sets: dict  # key of a validation set -> SRDataset
    images: int  # of each of them that are sampled
    run: Distributed
    log: logging.Logger


def load(arguments, folder, log):
    """The setting of the command line; the images of --small go to the folder."""
    flags = {"phase": "train"}
    if arguments.small:
        make_demo(folder / "demo", count=8)
        flags |= SMALL_CONFIG
        flags |= {f"datasets.{key}.dataroot": str(folder / "demo" / key) for key in ("train", "val")}
    config = load_config(arguments.config, arguments.overrides, flags)
    config["train"]["n_iter"] = arguments.steps or config["train"]["n_iter"]
    sets = {key: SRDataset(config["datasets"][key], train=False) for key in validation_sets(config)}
    if not sets:
        raise UserError(f"{arguments.config}: datasets.val is missing: the variants are compared on its images")
    return Setting(config, sets, arguments.images, Distributed(0, 1, pick_device(arguments.device)), log)


def variant_config(config, name, folder):
    """The config of a variant, whose experiment goes to the folder."""
    config = deepcopy(config)
    config["sparse"] |= VARIANTS[name]
    config["path"]["root"] = str(folder / name)
    return check_config(config, f"variant {name}")


def measure_variant(setting, config, label):
    """Trains a variant, and what there is to tell of it."""
    free()  # what the variant before took
    trainer = Trainer(config, setting.run, setting.log)
    first = dict(trainer.masker.masks) if trainer.masker else {}
    train_losses, seconds = train(trainer, label)
    masks = trainer.masker.masks if trainer.masker else {}
    size = packed_bytes(trainer.ema.network, masks)
    return {
        "sparse": config["sparse"],
        "density": trainer.density,
        "growth": growth_of(config["sparse"]),
        "kept": share_kept(first, masks),
        "train_loss": train_losses[-1],
        "train_losses": train_losses,
        "bytes": size,
        "megabytes": size / 1e6,
        "seconds": seconds,
        "minutes": seconds / 60,
        **validation_losses(trainer, setting, label),
        **sampled_quality(trainer.ema.network, setting, config, label),
    }


def train(trainer, label):
    """Trains to the last step -> (the mean loss of each tenth of the way, seconds)."""
    steps, losses, before = trainer.options["n_iter"], [], 0
    tenths = {steps * n // 10 for n in range(1, 11)}
    began = time.perf_counter()
    with tqdm(itertools.islice(trainer.batches(), steps), label, steps, disable=None, unit="step") as bar:
        for batch in bar:
            trainer.train_step(batch)
            if trainer.step in tenths:
                losses.append(mean_loss(trainer, trainer.step - before))
                before = trainer.step
                bar.set_postfix(loss=f"{losses[-1]:.4f}")
                if bar.disable:
                    rate = trainer.step / (time.perf_counter() - began)
                    trainer.log.info(f"{label}: step {before}/{steps}, loss {losses[-1]:.4f}, {rate:.2f} steps/s")
    synchronize(trainer.run.device)
    trainer.board.close()
    return losses, time.perf_counter() - began


def mean_loss(trainer, steps):
    """The mean of the losses summed over so many steps, which are forgotten."""
    loss = trainer.losses.item() / steps
    trainer.losses.zero_()
    if not math.isfinite(loss):
        raise Diverged(f"the training loss is {loss} at step {trainer.step}")
    return loss


def growth_of(sparse):
    """The growth rule of a `sparse` section, for a reader; None where nothing grows."""
    return sparse["growth"] if sparse["enabled"] and sparse["prune_rate"] else None


def share_kept(first, last):
    """The share of the weights active at first that are active at last; 1 where nothing is masked."""
    kept = sum(int((mask & last[name]).sum()) for name, mask in first.items())
    return kept / sum(int(mask.sum()) for mask in first.values()) if first else 1.0


def packed_bytes(network, masks):
    """Of the tensors that a network file of the checkpoint holds."""
    return sum(tensor.nbytes for tensor in pack(network.state_dict(), masks).values())


def validation_losses(trainer, setting, label):
    """The mean loss over all validation images, and that of each image by validation set."""
    losses, config = {}, trainer.config
    objective = DiffusionLoss(trainer.ema.network, config["train"]["loss"])
    for key, dataset in setting.sets.items():
        shown = f"{label}, loss on {config['datasets'][key]['name']}"
        samples = (dataset[i] for (i,) in batches(range(len(dataset)), 1, shown, setting.run, setting.log))
        losses[key] = [image_loss(objective, sample, trainer.schedule, trained_factor(config)) for sample in samples]
    mean = fmean(itertools.chain(*losses.values()))
    if not math.isfinite(mean):
        raise Diverged(f"the validation loss is {mean}")
    return {"loss": mean, "losses": losses}


@torch.no_grad()
def image_loss(objective, sample, schedule, factor):
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


def stratified_noise_levels(schedule, number, generator):
    """γ (number,) on the CPU, one of each part of the timesteps: together distributed as in training, see
    `model.diffusion.draw_noise_levels`."""
    table = torch.cat([torch.ones(1, dtype=torch.float64), schedule.noise_levels])
    drawn = torch.rand(number, generator=generator, dtype=torch.float64)
    place = (torch.arange(number) + drawn) / number * schedule.n_timestep  # γ is linear between whole numbers
    below = place.long().clamp(max=schedule.n_timestep - 1)
    return torch.lerp(table[below], table[below + 1], place - below).float()


def sampled_quality(network, setting, config, label):
    """The means of what `core.validation.measure` gives over all sampled images, and each image's by set."""
    entries = {}
    for key, dataset in setting.sets.items():
        spec, shard = config["datasets"][key], range(min(setting.images, len(dataset)))
        entries[key] = []
        for indices in batches(shard, spec["batch_size"], f"{label}, {spec['name']}", setting.run, setting.log):
            samples = [dataset[index] for index in indices]
            sr, _, _ = super_resolve_samples(network, config, samples, setting.run.device)
            entries[key] += [measure(pictures_of(sample, image)) for sample, image in zip(samples, sr, strict=True)]
    release(network)
    every = list(itertools.chain(*entries.values()))
    return {key: fmean(entry[key] for entry in every) for key in every[0]} | {"per_image": entries}


# ---------------------------------------------------------------------------------------------------------------------
# What is compared.


def add_row(report, row):
    """A variant with its measures, and all rows compared anew. What is said of bicubic is the same for all of them."""
    bicubic = {key: value for key, value in row.items() if key.startswith("bicubic_")}
    report["bicubic"] = {key.removeprefix("bicubic_"): value for key, value in bicubic.items()}
    report["rows"].append({key: value for key, value in row.items() if key not in bicubic})
    compare(report["rows"])


def compare(rows):
    """Adds to each row how far its loss is above that of the reference, if that is there, and the standard error."""
    reference = next((row for row in rows if row["variant"] == REFERENCE), None)
    for row in rows:
        pair = paired_difference(row["losses"], reference["losses"]) if reference else (None, None)
        row["difference"], row["difference_error"] = pair


def paired_difference(losses, others):
    """(mean, its standard error) of losses - others, {set: [loss of each image]}; no error for a single image."""
    differences = [
        loss - other for key in losses for loss, other in zip(losses[key], others[key], strict=True)
    ]  # the same images in the same order
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None
    return fmean(differences), error


def merge(files, log):
    """The rows of several reports as one, compared anew; a variant that several have is taken from the first."""
    reports = [read_report(file) for file in files]
    merged, rows, left_out = reports[0], {}, {}
    for file, report in zip(files, reports, strict=True):
        refuse_other_setting(merged, report, files[0], file)
        for row in report["rows"]:
            if row["variant"] in rows:
                log.info(f"{row['variant']}: not taken from {file}, as a report before it has it too")
            rows.setdefault(row["variant"], row)
        left_out |= report["left_out"]
    merged["device"] = ", ".join(dict.fromkeys(report["device"] for report in reports))
    merged["left_out"] = {name: reason for name, reason in left_out.items() if name not in rows}
    merged["rows"] = sorted(rows.values(), key=lambda row: list(VARIANTS).index(row["variant"]))
    compare(merged["rows"])
    return merged


def read_report(file):
    """A report that this benchmark wrote."""
    try:
        report = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--merge {file}: cannot read it: {error.strerror}") from None
    except ValueError:
        report = None
    if not isinstance(report, dict) or report.get("benchmark") != "density":
        raise UserError(f"--merge {file}: not a report of benchmarks/density.py")
    return report


def refuse_other_setting(one, other, file, other_file):
    """One line where the variants of two reports were not trained and measured alike."""
    settings = ({key: comparable(report[key]) for key in EQUAL} for report in (one, other))
    for key, value, another in differences(*settings):
        raise UserError(f"cannot merge {file} and {other_file}: {key} is {value} in the first, {another} in the other")


def comparable(value):
    """A value of a report without where its images lie: what they are is told by their digest."""
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items() if key not in PLACES}
    return value


def differences(one, other, path=""):
    """(path, value, other value) of all that is not the same in two nested dicts."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        if one != other:
            yield path.removeprefix("."), one, other
        return
    for key in one | other:
        yield from differences(one.get(key), other.get(key), f"{path}.{key}")


# ---------------------------------------------------------------------------------------------------------------------
# The report.


def describe(setting, arguments):
    """What is measured, where and how."""
    config, network = setting.config, build_network(setting.config["model"], initialised=False)
    return {
        "benchmark": "density",
        **environment(setting.run.device),
        "config": config["name"],
        "overrides": arguments.overrides,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "prunable": sum(parameter.numel() for parameter in network.prunable_parameters().values()),
        "steps": config["train"]["n_iter"],
        "noise_levels": NOISE_LEVELS,
        "images": setting.images,
        "data": describe_data(setting),
        "settings": {section: config[section] for section in ("model", "train", "sparse", "sample")},
        "sampling": describe_sampling(config["sample"], network.schedule),
        "left_out": {},
        "bicubic": None,
        "rows": [],
    }


def describe_data(setting):
    """{set: its section of the config, how many images it has, a digest of their names; for validation, pixels too}."""
    specs = setting.config["datasets"]
    train = SRDataset(specs["train"], train=True)
    told = {"train": {"number": len(train), "sha256": digest(train.store.names[: len(train)])}}
    for key, dataset in setting.sets.items():
        pixels = (sample[kind].numpy().tobytes() for sample in dataset_in_order(dataset) for kind in ("lr", "hr"))
        told[key] = {"number": len(dataset), "sha256": digest(dataset.store.names[: len(dataset)], pixels)}
    return {key: specs[key] | found for key, found in told.items()}


def dataset_in_order(dataset):
    return (dataset[index] for index in range(len(dataset)))


def digest(names, contents=()):
    """SHA-256 of texts, and of what follows them, as hexadecimal digits."""
    state = hashlib.sha256("\0".join(names).encode())
    for content in contents:
        state.update(content)
    return state.hexdigest()


def title(report):
    train, bicubic = report["data"]["train"], report["bicubic"]
    sets = ", ".join(f"{spec['name']} ({spec['number']})" for key, spec in report["data"].items() if key != "train")
    images = train["batch_size"] * report["settings"]["train"]["accumulate"]
    lines = [
        f"{report['config']}: {report['parameters']:,} parameters, {report['prunable']:,} of them prunable; "
        f"{report['steps']:,} steps of {images} images on {report['device']}",
        f"{train['name']} ({train['number']} images), {train['l_resolution']} → {train['r_resolution']}; "
        f"validation on {sets}",
        f"val loss: EMA weights, each image at {report['noise_levels']} noise levels; beside it the paired difference "
        "and its standard error over images",
        f"PSNR, SSIM: of at most {report['images']} images of a set, {report['sampling']}",
        f"of bicubic upsampling: {bicubic['psnr']:.2f} dB, {bicubic['ssim']:.4f}",
        "train loss: of the last tenth of the steps; minutes: of training",
    ]
    lines += [f"left out: {name} ({reason})" for name, reason in report["left_out"].items()]
    return "\n".join(lines)


def as_table(report):
    cells = [[row["variant"], *(show(row[key], form) for key, (_, form) in COLUMNS.items())] for row in report["rows"]]
    return table(["", *(name for name, _ in COLUMNS.values())], cells)


def save_plot(report, file):
    """Density against validation loss: a line through the densities, and a point for each other rule."""
    points = {row["variant"]: (100 * row["density"], row["loss"], row["variant"]) for row in report["rows"]}
    line = sorted(point[:2] for name, point in points.items() if name in DENSITIES)
    series = [Series("growth by momentum, up to dense", line, line=True)] if line else []
    series += [Series("", [point]) for name, point in points.items() if name in RULES]
    heading = f"{report['config']}: {report['steps']:,} steps each"
    picture = plot(series, heading, "weights active, %", "validation loss", log_x=True)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    save_png(picture, file)


if __name__ == "__main__":
    main()
