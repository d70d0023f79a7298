"""The plan of a chain: which timesteps it visits, and at which of them the encoder runs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import Any

from model.errors import ModelError, did_you_mean
from model.sampling.key_steps import EncoderChange, key_steps_by_change

# The key-step sets known by name, each over the order o = 0, 1, ... of a step.
NAMED_SETS = {
    "50ls": {0, 1, 2, 3, 5, 10, 15, 25, 35}.__contains__,
    "50ls2": {0, 10, 11, 12, 15, 20, 25, 30, 35, 45}.__contains__,
    "50ls3": {0, 20, 25, 30, 35, 45, 46, 47, 48, 49}.__contains__,
    "50ls4": {0, 9, 13, 14, 15, 28, 29, 32, 36, 45}.__contains__,
    "75ls": lambda o: o > 65 or o < 10 or o % 5 == 0,
    "100ls": lambda o: o > 85 or o < 10 or o % 5 == 0,
    "s2": lambda o: o < 20 or o > 40 or o % 2 == 0,
    "pro": lambda o: isqrt(9 + 8 * o) ** 2 == 9 + 8 * o,
}
ACCEPTED = f"none, uniform:K, auto:N, {', '.join(NAMED_SETS)}, or the orders themselves, as in 0,5,10"


@dataclass(frozen=True)
class SamplingPlan:
    """A chain of `steps` denoising steps over a schedule of `n_timestep`, grouped for encoder-state reuse.

    A step is named by its order: 0 is the first step taken, at the highest noise, `steps`-1 the last. The encoder runs
    at the `key_steps` alone; the steps from one key step up to the next are a group, of any length, and all decode the
    state of its first. Order 0 is a key step whether it is listed or not.

    Raises ModelError unless 1 ≤ steps ≤ n_timestep and every key step is an order of the chain.
    """

    steps: int
    n_timestep: int
    key_steps: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("steps", "n_timestep"):
            if not is_int(getattr(self, name)):
                raise ModelError(f"{name} must be a whole number, not {getattr(self, name)!r}")
        if not 1 <= self.steps <= self.n_timestep:
            raise ModelError(f"steps must lie between 1 and the schedule's {self.n_timestep}, not {self.steps}")
        for order in self.key_steps:
            if not is_int(order) or not 0 <= order < self.steps:
                raise ModelError(f"key step {order!r} is not in the chain, whose orders are 0 to {self.steps - 1}")
        object.__setattr__(self, "key_steps", tuple(sorted({0, *self.key_steps})))

    @classmethod
    def parse(
        cls,
        text: str | Sequence[int],
        steps: int | None,  # None: every timestep
        n_timestep: int,
        change: EncoderChange
        | None = None,  # what was measured of the network (`model.sampling.calibration`), for auto:N
        executed: int | None = None,  # the timesteps of least noise that auto:N is for, see `within`; None: all
    ) -> "SamplingPlan":
        """The plan that `text` names: `none` (every step is a key step), `uniform:K` (every K-th), `auto:N` (those N
        that fit the measured change), one of NAMED_SETS, or the orders of the key steps, as text or as numbers.

        A named set leaves out what lies beyond the chain; a listed order beyond it is an error.
        """
        plan, n = cls.check(text, steps, n_timestep), automatic(text)
        if n is None:
            return plan
        if change is None:
            raise ModelError(
                f"key-step plan {text} needs a measurement of the network, and this checkpoint has none; "
                "to add it: python -m core.calibrate -r CHECKPOINT"
            )
        left = plan.within(n_timestep if executed is None else executed)
        return cls(plan.steps, n_timestep, key_steps_by_change(change, left.timesteps, min(n, left.steps)))

    @classmethod
    def check(cls, text: str | Sequence[int], steps: int | None, n_timestep: int) -> "SamplingPlan":
        """As far as `parse` comes without a measurement: of `auto:N`, the chain with its first key step alone."""
        chain, n = cls(n_timestep if steps is None else steps, n_timestep, ()), automatic(text)
        if n is None:
            return cls(chain.steps, n_timestep, parse_key_steps(text, chain.steps))
        if n > chain.steps:
            problem = f"key-step plan {text} asks for more key steps than the chain has steps"
            raise ModelError(f"{problem}: give at most auto:{chain.steps}")
        return chain

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timestep of each order, descending and evenly spaced from the last of the schedule ("trailing" spacing,
        Lin et al. 2024)."""
        return tuple(round(self.n_timestep - i * self.n_timestep / self.steps) - 1 for i in range(self.steps))

    @property
    def groups(self) -> tuple[range, ...]:
        """The orders of each group; the first of a group is its key step."""
        return tuple(range(*bounds) for bounds in pairwise((*self.key_steps, self.steps)))

    def within(self, n_timestep: int) -> "SamplingPlan":
        """The same plan over the `n_timestep` timesteps of least noise, shortened where there are fewer than steps."""
        steps = min(self.steps, n_timestep)
        return SamplingPlan(steps, n_timestep, tuple(order for order in self.key_steps if order < steps))

    def __str__(self) -> str:
        """The shortest text that `parse` reads back as this plan."""
        length = len(self.groups[0])
        if self.key_steps == tuple(range(0, self.steps, length)):
            return "none" if length == 1 else f"uniform:{length}"
        return ",".join(map(str, self.key_steps))


def automatic(text: str | Sequence[int]) -> int | None:
    """N of `auto:N`; None where another plan is meant."""
    match = re.fullmatch(r"auto:([1-9]\d{,8})", text.strip().lower()) if isinstance(text, str) else None
    return int(match[1]) if match else None


def parse_key_steps(text: str | Sequence[int], steps: int) -> tuple[int, ...]:
    """The key steps that `text`, any but `auto:N`, names in a chain of `steps`."""
    if isinstance(text, list | tuple):
        return tuple(text)
    name = text.strip().lower() if isinstance(text, str) else ""
    if name == "none":
        return tuple(range(steps))
    if name in NAMED_SETS:
        return tuple(filter(NAMED_SETS[name], range(steps)))
    if match := re.fullmatch(r"uniform:([1-9]\d{,8})", name):
        return tuple(range(0, steps, int(match[1])))
    if re.fullmatch(r"\d{1,9}([\s,]+\d{1,9})*", name):
        return tuple(map(int, re.findall(r"\d+", name)))
    hint = did_you_mean(re.sub(r":.*", ":K", name), ("none", "uniform:K", "auto:N", *NAMED_SETS))
    raise ModelError(f"key-step plan {text!r} is not known{hint} (accepted: {ACCEPTED})")


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
