"""What core.fixed_pattern does: a network's fixed pattern, measured on photographs and taken out by its biases."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from core.checkpoint.files import LoadedNetwork, find_checkpoint, load_checkpoint
from core.checkpoint.network_file import read_network_file, save_network, stored_types, writable_network_file
from core.device import out_of_memory_said, pick_device
from core.errors import UserError
from core.inference.input_files import LeftOut, evenly, images_of_folder
from core.sampling.chain_progress import TimeLeft
from core.sampling.super_resolution import Sampling, super_resolve
from core.sampling.trained_sizes import TrainedSizes
from data.degradation import Degradation, degrade
from data.images import read_rgb, resize
from data.tensors import to_tensor
from model.distillation.fixed_pattern import COUNTS, PERIODS, Response, correction, fixed_pattern, response, rms

BIAS = "lr_encoder.tail.bias"
SIDE = 240  # pixels of a photograph's square, at most
FOR_RESPONSE = 8  # photographs that tell how the biases act
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
    save_network(target, state, loaded.step, stored_types(state.weights, torch.int8), compressed=True)
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
    files = images_of_folder("--photos", folder, LeftOut())
    return [small_image(file, times, degradation, n) for n, file in enumerate(evenly(files, most))]


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
    def result(self, lr: Tensor, number: int) -> Tensor:
        """(1, 3, h, w) -> (1, 3, H, W) on the CPU; the number of an image tells its noise, the same each time."""
        height, width = (side * self.period for side in lr.shape[2:])
        seeds = [self.sampling.settings.seed + number]
        with out_of_memory_said(f"out of memory at {width}x{height}; try --device cpu"):
            sr = super_resolve(self.network, lr, (height, width), self.sampling, seeds, TrainedSizes(self.period))
        return sr.float().cpu()

    def results(self, images: Sequence[Tensor], what: str = "") -> list[Tensor]:
        """Of all images, with progress where it is said what is measured."""
        numbered = list(enumerate(images))
        return [self.result(lr, n) for n, lr in (with_progress(numbered, what) if what else numbered)]

    def pattern_in(self, results: Sequence[Tensor]) -> Tensor:
        """The mean over results, (3, n, n)."""
        return torch.stack([fixed_pattern(sr, self.period) for sr in results]).mean(dim=0)


class State(NamedTuple):
    """What is measured with one bias."""

    pattern: Tensor  # (3, n, n)
    changes: Tensor  # (N,), since the beginning, of all pixels of the images that tell the response
    change: float  # of all images: the root mean square, in grey levels

    @property
    def loss(self) -> float:
        return float(COUNTS * rms(self.pattern) ** 2 + self.change**2)

    def __str__(self) -> str:
        return f"{rms(self.pattern):.3f} grey levels rms; the images changed by {self.change:.3f}"


def state_of(meter: PatternMeter, results: Sequence[Tensor], first: Sequence[Tensor]) -> State:
    changes = [(now - before).flatten() for now, before in zip(results, first, strict=True)]
    squares = torch.stack([change.square().mean() for change in changes])
    return State(meter.pattern_in(results), torch.cat(evenly(changes, FOR_RESPONSE)), rms(squares.sqrt()))


def without_pattern(meter: PatternMeter, images: Sequence[Tensor]) -> Tensor:
    """The bias with which little of the pattern is left, (3·n·n,), and the images are else much as they were.

    A change that makes the loss no less is not kept, and half of it is tried. At most four are tried, with a line on
    stdout for each.
    """
    bias = meter.network.lr_encoder.tail.bias
    assert bias is not None
    first = meter.results(images, "photo")
    state = state_of(meter, first, first)
    print(f"pattern before: {rms(state.pattern):.3f} grey levels rms", flush=True)
    derivatives = response_of(meter, evenly(list(enumerate(images)), FOR_RESPONSE), bias)
    best, step = bias.detach().clone(), 1.0
    for change in range(1, MOST_CHANGES + 1):
        with torch.no_grad():
            bias.copy_(best + step * correction(state.pattern, state.changes, derivatives).to(bias.device))
        found = state_of(meter, meter.results(images, f"change {change}, photo"), first)
        kept = found.loss < state.loss
        print(f"after change {change}: {found}{'' if kept else ', not kept'}", flush=True)
        if kept:
            best, state = bias.detach().clone(), found
        else:
            step /= 2
    return best


def response_of(meter: PatternMeter, numbered: Sequence[tuple[int, Tensor]], bias: Tensor) -> Response:
    """`model.distillation.fixed_pattern.response` of these images, with progress."""
    runs = with_progress(range(len(bias) + 1), "response to the biases, run")

    def measure() -> tuple[Tensor, Tensor]:
        next(runs)
        results = [meter.result(lr, number) for number, lr in numbered]
        return meter.pattern_in(results), torch.cat([sr.flatten() for sr in results])

    return response(measure, bias)


def with_progress(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, with a progress bar on a terminal; elsewhere with lines, if it takes more than a minute."""
    time = TimeLeft(what, lambda line: print(line, flush=True))
    bar = tqdm(items, desc=what, leave=False, disable=None)
    for done, item in enumerate(bar, start=1):
        yield item
        if bar.disable:
            time.tell(done, len(items))
