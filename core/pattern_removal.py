"""What core.fixed_pattern does: a network's fixed pattern, measured on photographs and taken out by its biases."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from core.calibration import spread
from core.chain_progress import TimeLeft
from core.checkpoint import LoadedNetwork, find_checkpoint, load_checkpoint
from core.device import out_of_memory_said, pick_device
from core.errors import UserError
from core.export import stored_types
from core.input_files import LeftOut, named_images
from core.network_file import read_network_file, save_network, writable_network_file
from core.sampling import Sampling, super_resolve
from core.trained_sizes import TrainedSizes
from data.degradation import Degradation, degrade
from data.images import read_rgb, resize
from data.tensors import to_tensor
from model.fixed_pattern import PERIODS, correction, fixed_pattern, response, rms

BIAS = "lr_encoder.tail.bias"
SIDE = 480  # pixels of a photograph's square, at most
FOR_RESPONSE = 2  # photographs that tell how the biases act: it differs little between images
MOST_CHANGES = 4

T = TypeVar("T")


def remove_pattern(arguments: Namespace) -> None:
    """Measures and corrects what the command line asks for, and writes the network."""
    device = pick_device(arguments.device)
    source = find_checkpoint(arguments.checkpoint).network
    loaded = load_checkpoint(source, device)
    period = period_of(loaded, source)
    images = small_images(Path(arguments.photos), arguments.images, period, degradation_of(loaded))
    target = writable_network_file(arguments.output)
    bias = without_pattern(PatternMeter(loaded, period), images)
    state = read_network_file(source)
    state.weights[BIAS] = bias.cpu()
    save_network(target, state, loaded.step, stored_types(state.weights, "int8"), compressed=True)
    print(f"{target}: the same network but for {len(bias)} biases")


def period_of(loaded: LoadedNetwork, source: Path) -> int:
    """How many pixels of the result an LR pixel becomes, per axis. Raises UserError where they are no sub-pixels."""
    period, magnification = loaded.network.lr_encoder.sub_pixel, loaded.config.magnification
    if period == 1:
        raise UserError(f"{source}: has no sub-pixels (model.lr_encoder.sub_pixel: 1), so it adds no such pattern")
    if magnification != period:
        raise UserError(
            f"{source}: magnifies {magnification:g} times with {period} sub-pixels (model.lr_encoder.sub_pixel); "
            "the pattern can be told only where both are the same"
        )
    return period


# ---------------------------------------------------------------------------------------------------------------------
# The images.


def degradation_of(loaded: LoadedNetwork) -> Degradation | None:
    """How LR was made in training: a network has another pattern on the marks of JPEG than elsewhere."""
    training = loaded.config.datasets.get("train") if "datasets" in loaded.config else None
    return Degradation(**training.degradation) if training and "degradation" in training else None


def small_images(folder: Path, most: int, times: int, degradation: Degradation | None = None) -> list[Tensor]:
    """Of at most so many photographs of a folder, their centred squares made smaller, and worse as in the training:
    (1, 3, h, h) in [-1, 1] each. The n-th is always drawn alike."""
    if not folder.is_dir():
        raise UserError(f"--photos {folder}: no such folder")
    files = [file for file, _ in named_images([folder], LeftOut())]
    if not files:
        raise UserError(f"--photos {folder}: no image in this folder")
    return [small_image(file, times, degradation, n) for n, file in enumerate(spread(files, most))]


def small_image(file: Path, times: int, degradation: Degradation | None = None, seed: int = 0) -> Tensor:
    photo = read_rgb(file)
    side = min(SIDE, *photo.size) // times
    if side < PERIODS:
        size, least = f"{photo.width}x{photo.height}", PERIODS * times
        raise UserError(f"{file}: {size} is too small; photographs need {least}x{least} pixels or more")
    left, top = ((length - side * times) // 2 for length in photo.size)
    square = photo.crop((left, top, left + side * times, top + side * times))
    if degradation:
        return to_tensor(degrade(square, (side, side), degradation, np.random.default_rng(seed)))[None]
    return to_tensor(resize(square, (side, side)))[None]


# ---------------------------------------------------------------------------------------------------------------------
# The pattern.


class PatternMeter:
    """Measures the pattern of a network as it samples by itself, in float32, as differences of patterns are small."""

    def __init__(self, loaded: LoadedNetwork, period: int) -> None:
        self.network, self.period = loaded.network, period
        settings = loaded.config.sample.replace(precision="float32", tile=0)
        self.sampling = Sampling.of(settings, self.network.schedule, loaded.encoder_change)

    @torch.no_grad()
    def of_one(self, lr: Tensor, number: int) -> Tensor:
        """(1, 3, h, w) -> (3, n, n) on the CPU; the number of an image tells its noise, the same each time."""
        height, width = (side * self.period for side in lr.shape[2:])
        seeds = [self.sampling.settings.seed + number]
        with out_of_memory_said(f"out of memory at {width}x{height}; try --device cpu"):
            sr = super_resolve(self.network, lr, (height, width), self.sampling, seeds, TrainedSizes(self.period))
        return fixed_pattern(sr.float(), self.period).cpu()

    def of(self, images: Sequence[Tensor], what: str = "") -> Tensor:
        """The mean over images, with progress where it is said what is measured."""
        numbered = list(enumerate(images))
        return torch.stack([self.of_one(lr, n) for n, lr in (told(numbered, what) if what else numbered)]).mean(dim=0)


def without_pattern(meter: PatternMeter, images: Sequence[Tensor]) -> Tensor:
    """The bias with which the pattern is least, (3·n·n,): it is corrected until the pattern no longer falls, at most
    four times. A line on stdout for each, with the pattern in grey levels."""
    bias = meter.network.lr_encoder.tail.bias
    assert bias is not None
    pattern = meter.of(images, "photo")
    print(f"pattern before: {rms(pattern):.3f} grey levels rms", flush=True)
    derivative = response_of(meter, spread(images, FOR_RESPONSE), bias)
    best, least = bias.detach().clone(), rms(pattern)
    for change in range(1, MOST_CHANGES + 1):
        with torch.no_grad():
            bias += correction(pattern, derivative).to(bias.device)
        pattern = meter.of(images, f"change {change}, photo")
        falls = rms(pattern) < least
        print(f"after change {change}: {rms(pattern):.3f}{'' if falls else ', no less: not kept'}", flush=True)
        if not falls:
            break
        best, least = bias.detach().clone(), rms(pattern)
    return best


def response_of(meter: PatternMeter, images: Sequence[Tensor], bias: Tensor) -> Tensor:
    """`model.fixed_pattern.response` of the mean pattern of these images, with progress."""
    runs = told(range(len(bias) + 1), "response to the biases, run")

    def pattern() -> Tensor:
        next(runs)
        return meter.of(images)

    return response(pattern, bias)


def told(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, with a progress bar on a terminal; elsewhere with lines, if it takes more than a minute."""
    time = TimeLeft(what, lambda line: print(line, flush=True))
    bar = tqdm(items, desc=what, leave=False, disable=None)
    for done, item in enumerate(bar, start=1):
        yield item
        if bar.disable:
            time.tell(done, len(items))
