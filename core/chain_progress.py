"""How far a long chain of denoising steps has come."""

import time
from collections.abc import Callable

from torch import Tensor

LONG = 60  # seconds: of a chain that takes longer, it is said how long
BETWEEN = 20  # seconds between lines
LARGE = 1 << 27  # steps times pixels, from which a GPU's time is worth telling, and telling costs none of it


class ChainProgress:
    """A callback of `sample` that says, after the first steps of a chain of more than a minute, how long it will take,
    and then now and then how far it is."""

    def __init__(self, steps: int, say: Callable[[str], None], clock: Callable[[], float] = time.perf_counter) -> None:
        self.steps, self.say, self.clock = steps, say, clock
        self.began = clock()
        self.last = 0.0  # time of the last line; 0: none yet

    def __call__(self, order: int, timestep: int, x: Tensor, x0: Tensor) -> None:
        now, done = self.clock(), order + 1
        left = (now - self.began) / done * (self.steps - done)
        is_due = now - self.last >= BETWEEN if self.last else now - self.began + left > LONG
        if done < self.steps and is_due:
            self.say(f"step {done} of {self.steps}, about {duration(left)} left")
            self.last = now


def duration(seconds: float) -> str:
    """In minutes, or hours."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(seconds / 60, 0.1):.1f} min"
