"""What happens between the photo that is dropped on the page and the result."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from core.checkpoint.files import saved_config
from core.config import PRESETS, Config
from core.config.presets import OF_STUDENTS
from core.device import out_of_memory_said
from core.errors import UserError
from core.inference.about import outside
from core.inference.input_files import Size, size_of
from core.inference.network_choice import Networks, ReadyNetwork, load_once
from core.inference.result_sizes import Wanted, is_smaller, show
from core.inference.upscaling import enlarged
from core.sampling.chain_progress import BatchCount, StepCount, is_worth_telling
from core.sampling.super_resolution import Callback
from core.sampling.trained_sizes import TrainedSizes
from core.shipped import CHAINS, FILES, is_there, sampled_by, shipped_file
from core.web.limits import Limits
from data.images import encode, on_white, read_picture, resize
from model.tiling import OnBatch

Tell = Callable[[int, int], None]  # tell(steps or batches of tiles that are done, of how many)


class Choice(NamedTuple):
    """What the visitor chose."""

    network: str  # a shipped one
    preset: str | None = None  # None: the network's own sampling
    scale: float | None = None  # None: the network's own size


class Enlarged(NamedTuple):
    """A result, and bicubic enlargement to the same size; both on white where the photo is transparent."""

    bicubic: Image.Image
    result: Image.Image
    png: bytes  # of the result, with transparency and EXIF, as infer.py writes it
    told: str  # in one line: sizes, network, time, and what of the photo is not as it should be


@dataclass(frozen=True)
class Enlarger:
    """Enlarges the photos of visitors, on a device and within limits of their bytes and pixels."""

    device: torch.device
    limits: Limits

    def enlarge(self, file: str | Path, choice: Choice, tell: Tell = lambda done, of: None) -> Enlarged:
        """Super-resolves a photo as infer.py does, and tells how far it is.

        Raises UserError, DataError or ModelError for what the visitor can mend.
        """
        file = Path(file)
        self.limits.check_bytes(file.stat().st_size)
        self.limits.check_pixels(*size_of(file))  # the result is at least as large, and nothing is decoded yet
        picture = read_picture(file.read_bytes(), file.name)

        name = sampled_by(choice.network, choice.preset)
        ready = Networks(shipped_file(name), self.device, {}, choice.preset, load=load_once).of(picture.rgb.size)
        size = self.result_size(picture.rgb.size, choice.scale, ready.config)
        self.limits.check_pixels(*ready.made_at(picture.rgb.size, size))
        began = time.perf_counter()
        with out_of_memory_said("The memory of the server does not suffice: choose a smaller photo or size."):
            tiles_told = batches_told(ready, tell)
            result = enlarged(picture, size, ready, steps_told(ready, picture.rgb.size, size, tell), tiles_told)
        seconds = time.perf_counter() - began

        told = f"{show(picture.rgb.size)} → {show(size)} pixels, {name}, {seconds:.1f} s"
        if problem := outside(ready.config, picture.rgb.size, max(size) / max(picture.rgb.size)):
            told += f". The photo {problem}: the result may be worse"
        told += "".join(f". About the photo: {notice}" for notice in picture.notices)
        png = encode(result, ".png", exif=picture.exif, is_tagged=picture.is_tagged)
        bicubic = resize(picture.rgb, size)
        if picture.alpha:
            bicubic.putalpha(resize(picture.alpha, size))
        return Enlarged(on_white(bicubic), on_white(result), png, told)

    def result_size(self, size: Size, scale: float | None, config: Config) -> Size:
        """(width, height) of the result. Raises UserError where it is smaller than the photo."""
        result = Wanted(scale).for_image(size, config)
        if is_smaller(result, size):
            raise UserError(
                f"The photo has {show(size)} pixels, more than the {show(result)} that this network makes: choose "
                "another network, or how many times larger the result is to be."
            )
        return result


def steps_told(ready: ReadyNetwork, photo: Size, size: Size, tell: Tell) -> Callback | None:
    """What tells of a chain; None where that costs time: of a short one on a GPU."""
    (width, height), device = size, next(ready.network.parameters()).device
    chains = ready.sampling.chains(TrainedSizes.of(ready.config), (height, width), photo[::-1])
    if not is_worth_telling(ready.sampling, (1, height, width), device, chains):
        return None
    count = StepCount(ready.sampling, chains)
    return lambda order, *_: tell(count.done(order), count.of)


def batches_told(ready: ReadyNetwork, tell: Tell) -> OnBatch:
    """What tells of tiles."""
    count = BatchCount(ready.sampling)
    return lambda done, of: tell(*count.done(done, of))


def networks() -> list[str]:
    """The shipped networks whose files are there, those for photographs first. Raises UserError where none is."""
    there = sorted(filter(is_there, FILES), key=lambda name: not name.startswith("photos"))
    if not there:
        raise UserError("no network is there: get the project with its checkpoints")
    return there


def presets_of(network: str) -> list[str]:
    """The presets that a shipped network can follow: a student without a diffusion network beside it, only its own."""
    config = saved_config(FILES[network])
    is_student = config is not None and config.phase == "distill"
    return list(OF_STUDENTS if is_student and network not in CHAINS else PRESETS)
