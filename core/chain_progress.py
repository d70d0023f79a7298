"""How far a long chain of denoising steps has come."""

import math
import time
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from core.sampling import Sampling
from model.group_decoding import split

LONG = 60  # seconds: of a chain that takes longer, it is said how long
BETWEEN = 20  # seconds between lines
LARGE = 1 << 27  # steps times pixels, from which a GPU's time is worth telling, and telling costs none of it

Say = Callable[[str], None]
Clock = Callable[[], float]


class TimeLeft:
    """Says, of work of more than a minute, how long it will take, and then now and then how far it is."""

    def __init__(self, unit: str, say: Say, clock: Clock = time.perf_counter) -> None:
        self.unit, self.say, self.clock = unit, say, clock
        self.began = clock()
        self.last = 0.0  # time of the last line; 0: none yet

    def tell(self, done: int, of: int) -> None:
        now = self.clock()
        left = (now - self.began) / done * (of - done)
        is_due = now - self.last >= BETWEEN if self.last else now - self.began + left > LONG
        if done < of and is_due:
            self.say(f"{self.unit} {done} of {of}, about {duration(left)} left")
            self.last = now


class ChainProgress:
    """A callback of `sample` that says, after the first group of a chain of more than a minute, how long it will take,
    and then now and then how far it is."""

    def __init__(self, sampling: Sampling, say: Say, clock: Clock = time.perf_counter) -> None:
        plan, most = sampling.executed, sampling.settings.decode_batch
        self.steps, self.time = plan.steps, TimeLeft("step", say, clock)
        # Steps that are decoded together are told one after the other, when the last of them is computed.
        self.ends = {run[-1] for group in plan.groups for run in split(group, most)}

    def __call__(self, order: int, timestep: int, x: Tensor, x0: Tensor) -> None:
        if order in self.ends:
            self.time.tell(order + 1, self.steps)


class TileProgress:
    """An `on_batch` of `sample_tiled`: a progress bar on a terminal, and elsewhere lines as of a chain."""

    def __init__(self, say: Say, clock: Clock = time.perf_counter) -> None:
        self.say, self.clock = say, clock
        self.begin()

    def begin(self) -> None:
        self.time = TimeLeft("batch of tiles", self.say, self.clock)
        self.bar: tqdm[NoReturn] | None = None

    def __call__(self, done: int, of: int) -> None:
        if self.bar is None:
            self.bar = tqdm(total=of, unit="batch", desc="tiles", leave=False, disable=None)
        if self.bar.disable:
            self.time.tell(done, of)
        else:
            self.bar.update()
        if done == of:
            self.bar.close()
            self.begin()  # for the next image


def progress_of_chain(
    sampling: Sampling, shape: tuple[int, int, int], device: torch.device, say: Say
) -> ChainProgress | None:
    """What tells of a chain that makes images of this shape, (B, H, W); None where it costs time and tells nothing: a
    short chain on a GPU."""
    told = device.type == "cpu" or sampling.executed.steps * math.prod(shape) >= LARGE
    return ChainProgress(sampling, say) if told else None


def duration(seconds: float) -> str:
    """In minutes, or hours."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(seconds / 60, 0.1):.1f} min"
