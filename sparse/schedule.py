"""How the prune rate decays over training."""

import math

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
