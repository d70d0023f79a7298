"""The predictions for all steps of a group from one encoder state: which of them the decoder computes, how many at
once."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from model.sampling.plan import SamplingPlan

DECODES = ("every", "ends", "first")
MOST_LENGTHS = 8  # of runs of the decoder: each is captured by itself, which takes time and memory

Runs = Callable[[range], Iterator[range]]  # the orders of a group -> the orders of each call of the decoder


def decoded(length: int, how: str) -> int:
    """How many steps of a group of so many the decoder computes; how: one of DECODES."""
    return min(length, {"every": length, "ends": 2, "first": 1}[how])


def predictions_of_group(
    decode: Callable[[Tensor], Tensor],  # of the group's state: levels (K, B) -> predictions (K, B, 3, H, W)
    levels: Tensor,  # γ of each step of the chain, (S, B)
    group: range,
    how: str,  # one of DECODES
    runs: Runs,
) -> Iterator[tuple[range, Tensor]]:
    """(orders, their predictions (K, B, 3, H, W)), run after run."""
    if how == "every" or len(group) == 1:
        for orders in runs(group):
            yield orders, decode(levels[orders.start : orders.stop])
    elif how == "first":
        held = decode(levels[group.start : group.start + 1])
        yield group, held.expand(len(group), *held.shape[1:])
    else:
        ends = decode(levels[group.start : group.stop : len(group) - 1]).float()
        weight = torch.linspace(0, 1, len(group), device=ends.device)[:, None, None, None, None]
        yield group, torch.lerp(ends[:1], ends[1:], weight)


def runs_of_decoder(plan: SamplingPlan, most: int | None, captured: bool) -> Runs:
    """How to decode a group: a function from its orders to runs of at most `most`.

    Where runs are captured and would have many lengths, as groups of `auto` and `pro` have, they are powers of two.
    """
    lengths = {len(run) for group in plan.groups for run in split(group, most)}
    return partial(split, most=most, powers_of_two=captured and len(lengths) > MOST_LENGTHS)


def split(orders: range, most: int | None, powers_of_two: bool = False) -> Iterator[range]:
    """The orders of a group in runs of at most `most`, the longest first."""
    first = orders.start
    while first < orders.stop:
        length = min(most or len(orders), orders.stop - first)
        if powers_of_two:
            length = 1 << (length.bit_length() - 1)
        yield range(first, first + length)
        first += length
