"""How far a long chain of denoising steps has come."""

import math
import time
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from core.sampling.super_resolution import Sampling
from model.sampling.group_decoding import split

LONG = 60  # seconds: of a chain that takes longer, it is said how long
BETWEEN = 20  # seconds between lines
LARGE = 1 << 27  # steps times pixels: from here on, a GPU takes long enough to be told of, and telling slows nothing

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


class StepCount:
    """Counts the steps of chains that follow one another, as the stages of a result do."""

    def __init__(self, sampling: Sampling, chains: int) -> None:
        self.steps, self.of = sampling.executed.steps, sampling.executed.steps * chains
        self.before = 0  # steps of the chains that are complete

    def done(self, order: int) -> int:
        """How many steps are done, with the step of this order in the present chain."""
        done = self.before + order + 1
        if order + 1 == self.steps:
            self.before = min(done, self.of - self.steps)  # a chain that overflowed is sampled again
        return done


class BatchCount:
    """Counts the batches of tiles of chains that follow one another, each with as many: those of an image and of its
    mirror image. It begins anew with the next image."""

    def __init__(self, sampling: Sampling) -> None:
        self.chains = sampling.chains_of_a_stage
        self.before = 0  # batches of the chains that are complete

    def done(self, done: int, of: int) -> tuple[int, int]:
        """How many batches of all chains are done, and of how many, from those of the present chain."""
        total = of * self.chains
        all_done = self.before + done
        if done == of:
            self.before = all_done % total
        return all_done, total


class ChainProgress:
    """A callback of `super_resolve` that says, after the first group of steps of more than a minute, how long they will
    take, and then now and then how far they are."""

    def __init__(self, sampling: Sampling, say: Say, clock: Clock = time.perf_counter, chains: int = 1) -> None:
        plan, most = sampling.executed, sampling.settings.decode_batch
        self.count, self.time = StepCount(sampling, chains), TimeLeft("step", say, clock)
        # Steps that are decoded together are told one after the other, when the last of them is computed.
        self.ends = {run[-1] for group in plan.groups for run in split(group, most)}

    def __call__(self, order: int, timestep: int, x: Tensor, x0: Tensor) -> None:
        done = self.count.done(order)
        if order in self.ends:
            self.time.tell(done, self.count.of)


class TileProgress:
    """An `on_batch` of `super_resolve`: a progress bar on a terminal, and elsewhere lines as of a chain."""

    def __init__(self, sampling: Sampling, say: Say, clock: Clock = time.perf_counter) -> None:
        self.say, self.clock, self.count = say, clock, BatchCount(sampling)
        self.begin()

    def begin(self) -> None:
        self.time = TimeLeft("batch of tiles", self.say, self.clock)
        self.bar: tqdm[NoReturn] | None = None

    def __call__(self, done_in_chain: int, of_chain: int) -> None:
        done, of = self.count.done(done_in_chain, of_chain)
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
    sampling: Sampling, shape: tuple[int, int, int], device: torch.device, say: Say, chains: int = 1
) -> ChainProgress | None:
    """What tells of the chains that make images of this shape, (B, H, W); None where that is not worth it."""
    return ChainProgress(sampling, say, chains=chains) if is_worth_telling(sampling, shape, device, chains) else None


def is_worth_telling(sampling: Sampling, shape: tuple[int, int, int], device: torch.device, chains: int = 1) -> bool:
    """Whether to tell how far the chains of images of this shape, (B, H, W), are: of short chains on a GPU, that costs
    time and tells nothing."""
    return device.type == "cpu" or chains * sampling.executed.steps * math.prod(shape) >= LARGE


def duration(seconds: float) -> str:
    """In minutes, or hours."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(seconds / 60, 0.1):.1f} min"
