"""When masks are updated, and how the prune rate decays over training."""

import math
from dataclasses import dataclass

FINAL_PRUNE_RATE = 0.005  # where cosine and linear decay end, so that the last updates still move a few weights


def cosine(initial: float, progress: float) -> float:
    """Half a cosine wave from `initial` at progress 0 to FINAL_PRUNE_RATE at progress 1
    (Dettmers & Zettlemoyer 2019, arXiv 1907.04840).
    """
    final = min(initial, FINAL_PRUNE_RATE)
    return final + (initial - final) * (1 + math.cos(math.pi * progress)) / 2


def linear(initial: float, progress: float) -> float:
    """A straight line from `initial` at progress 0 to FINAL_PRUNE_RATE at progress 1."""
    final = min(initial, FINAL_PRUNE_RATE)
    return final + (initial - final) * (1 - progress)


def constant(initial: float, progress: float) -> float:
    """`initial` at all times."""
    return initial


PRUNE_RATE_SCHEDULES = {"cosine": cosine, "linear": linear, "constant": constant}


@dataclass(frozen=True)
class UpdateSchedule:
    """The steps that update the masks of a sparse stage, and the share of the active weights that each of them prunes.

    Steps are those of the run, of which a sparse stage may be the later part.
    """

    every: int  # steps between updates
    start: int  # the step after which the stage begins; 0: the run is sparse from its first step
    until: int | None  # the last step that may update; None: no last one, and the prune rate stays
    prune_rate: float  # at the start
    decay: str  # of the prune rate from start to until: a name of PRUNE_RATE_SCHEDULES

    def is_due(self, step: int) -> bool:
        """Say whether this step updates the masks."""
        return (step - self.start) % self.every == 0 and (self.until is None or step <= self.until)

    def prune_rate_at(self, step: int) -> float:
        """The prune rate of an update at this step."""
        progress = 0.0 if self.until is None else min(1.0, (step - self.start) / (self.until - self.start))
        return PRUNE_RATE_SCHEDULES[self.decay](self.prune_rate, progress)
