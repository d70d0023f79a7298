"""What core.calibrate does: how the state of an encoder changes along a chain, measured on images and saved."""

import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from core.checkpoint.files import find_checkpoint, load_checkpoint, save_encoder_change
from core.checkpoint.network_file import writable_network_file
from core.command_line import sample_flags
from core.config import Config
from core.config.sections import SampleSection
from core.device import autocast, out_of_memory_said, pick_device
from core.errors import UserError
from core.inference.input_files import LeftOut, evenly, named_images, refuse_missing
from core.inference.result_sizes import show, target_size
from core.report.pictures import heat_map
from core.sampling.super_resolution import Sampling, sampling_settings
from core.shipped import FILES
from data import DataError, SRDataset
from data.files import make_writable
from data.images import read_rgb, save_png
from data.tensors import to_tensor
from model import Network
from model.conditioning import relative_scale
from model.sampling.calibration import encoder_change
from model.sampling.key_steps import EncoderChange
from model.schedule import NoiseSchedule


class LRImage(NamedTuple):
    name: str
    pixels: Tensor  # (3, h, w) in [-1, 1]


def calibrate(arguments: Namespace) -> None:
    """Measures what the command line asks for, and saves it with the checkpoint."""
    device = pick_device(arguments.device)
    source = find_checkpoint(arguments.checkpoint).network
    target = target_file(source, arguments.output)
    loaded = load_checkpoint(source, device)
    network, config = loaded.network, loaded.config
    settings = sampling_settings(config, sample_flags(arguments))
    if arguments.input:
        images = images_of_files(arguments.input, arguments.images)
    else:
        images = images_of_config(config, arguments.images)
    change = measure(network, images, settings, config.magnification, arguments.timesteps)
    picture = target.with_name(target.stem.removesuffix("_gen") + "_encoder_change.png")
    make_writable(target.parent)
    save_png(heat_map(change.distance.numpy()), picture)
    save_encoder_change(source, replace(loaded, encoder_change=change), target)
    tell(change, network.schedule, settings, target, picture)


def target_file(source: Path, output: str | None) -> Path:
    """The file to write, in a folder that is there. Raises UserError where it cannot hold a measurement."""
    if output is None and source.resolve() in FILES.values():
        raise UserError(f"{source}: a network that comes with the project is not changed unasked; name a file with -o")
    if output is None and source.suffix == ".pth":
        raise UserError(f"{source}: published files hold no measurement; with -o FILE, a native one is written")
    return writable_network_file(source if output is None else output)


# ---------------------------------------------------------------------------------------------------------------------
# The images.


def images_of_files(paths: Sequence[str | Path], most: int) -> list[LRImage]:
    """At most so many of the images in files and folders, from all over them. Raises UserError where a path or an image
    is missing, and DataError where one cannot be read."""
    refuse_missing(paths)
    files = [file for file, _ in named_images(paths, LeftOut())]
    if not files:
        raise UserError(f"no image in {', '.join(map(str, paths))}")
    return [LRImage(str(file), to_tensor(read_rgb(file))) for file in evenly(files, most)]


def images_of_config(config: Config, most: int) -> list[LRImage]:
    """Of the set to train on where there is one, else of another."""
    name = "train" if "train" in config.datasets else next(iter(config.datasets), None)
    if name is None:
        raise UserError(f"{config.name}: no datasets in the config of the checkpoint; give LR images with -i")
    try:
        dataset = SRDataset(config.datasets[name], train=name == "train")
        samples = [dataset[index] for index in evenly(range(len(dataset)), most)]
    except DataError as error:
        raise UserError(f"{error}; or give LR images with -i") from None
    return [LRImage(sample["name"], sample["lr"]) for sample in samples]


# ---------------------------------------------------------------------------------------------------------------------
# The measurement.


def measure(
    network: Network, images: Sequence[LRImage], settings: SampleSection, magnification: float, timesteps: int
) -> EncoderChange:
    """The mean change over the images, each with noise of its own; a line on stdout for each."""
    changes = []
    for n, image in enumerate(images):
        began = time.perf_counter()
        height, width = image.pixels.shape[1:]
        lr_size = width, height
        size = target_size(lr_size, magnification)
        seeded = settings.replace(seed=settings.seed + n)
        changes.append(measure_one(network, image, (size[1], size[0]), seeded, magnification, timesteps))
        seconds = time.perf_counter() - began
        print(f"[{n + 1}/{len(images)}] {image.name}  {show(lr_size)} -> {show(size)}  {seconds:.2f} s", flush=True)
    return EncoderChange(changes[0].timesteps, torch.stack([change.distance for change in changes]).mean(dim=0))


def measure_one(
    network: Network,
    image: LRImage,
    size: tuple[int, int],
    settings: SampleSection,
    magnification: float,
    timesteps: int,
) -> EncoderChange:
    """The change for one image, super-resolved to size (H, W). Raises UserError where the memory is too small."""
    device = next(network.parameters()).device
    lr = image.pixels[None].to(device)
    scale = relative_scale(size, lr.shape[-2:], magnification)
    chain = {key: settings[key] for key in ("solver", "seed", "consistency")}
    with out_of_memory_said(too_large(image, size)), autocast(device, settings.precision, sampling=True):
        return encoder_change(network, lr, size, timesteps, scale=scale, **chain)


def too_large(image: LRImage, size: tuple[int, int]) -> str:
    """What to say where the memory does not suffice to super-resolve an image to size (H, W)."""
    return f"{image.name}: out of memory at {show(size[::-1])}; give smaller images with -i"


def tell(change: EncoderChange, schedule: NoiseSchedule, settings: SampleSection, target: Path, picture: Path) -> None:
    """What there is now, and what key steps it makes of the chain of the settings."""
    print(f"{target}: now with the encoder's change between {len(change.timesteps)} timesteps, seen in {picture}")
    steps = Sampling.of(settings.replace(key_steps="none"), schedule).executed.steps
    for n in (5, 10, 20):
        if n <= steps:
            plan = Sampling.of(settings.replace(key_steps=f"auto:{n}"), schedule, change).executed
            print(f"auto:{n} in {plan.steps} steps: {','.join(map(str, plan.key_steps))}")
