"""How far a long chain of denoising steps has come."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from core.sampling import Sampling
from model.group_decoding import split

LONG = 60  # seconds: of a chain that takes longer, it is said how long
BETWEEN = 20  # seconds between lines
LARGE = 1 << 27  # steps times pixels, from which a GPU's time is worth telling, and telling costs none of it

Say = Callable[[str], None]


class ChainProgress:
    """A callback of `sample` that says, after the first group of a chain of more than a minute, how long it will take,
    and then now and then how far it is."""

    def __init__(self, sampling: Sampling, say: Say, clock: Callable[[], float] = time.perf_counter) -> None:
        plan, most = sampling.executed, sampling.settings.decode_batch
        self.steps, self.say, self.clock = plan.steps, say, clock
        # Steps that are decoded together are told one after the other, when the last of them is computed.
        self.ends = {run[-1] for group in plan.groups for run in split(group, most)}
        self.began = clock()
        self.last = 0.0  # time of the last line; 0: none yet

    def __call__(self, order: int, timestep: int, x: Tensor, x0: Tensor) -> None:
        if order not in self.ends:
            return
        now, done = self.clock(), order + 1
        left = (now - self.began) / done * (self.steps - done)
        is_due = now - self.last >= BETWEEN if self.last else now - self.began + left > LONG
        if done < self.steps and is_due:
            self.say(f"step {done} of {self.steps}, about {duration(left)} left")
            self.last = now


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
