"""Selections of exactly k elements, ties to the lowest index, without a word to the host."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparse.layer import Layer, fields_read, over_layers, reads
from sparse.rows import by_rows


def select_largest(scores: Tensor, candidates: Tensor, counts: Tensor | int) -> Tensor:
    """Mark in every row the `counts` candidates of the largest score.

    scores: (…, N) float; NaN counts as 0.  candidates: (…, N) bool.
    counts: (…) int32 on the scores' device, or one number for all rows; no row has fewer candidates than its count.
    Returns (…, N) bool with exactly `counts` True in a row.
    """
    infinity = float("inf")
    counts = torch.as_tensor(counts, device=scores.device).expand(scores.shape[:-1])[..., None]
    scores = torch.where(candidates, scores.nan_to_num(nan=0.0, posinf=infinity, neginf=-infinity), -infinity)
    threshold = _kth_largest(scores, counts.clamp(min=1))  # for a count of 0 the largest score: nothing is above it
    above = scores > threshold
    tied = candidates & (scores == threshold)
    # One scan over all rows: a GPU scans each of many rows with one thread block, which is slow where they are long.
    rank = tied.flatten().cumsum(0, dtype=torch.int32).view_as(tied)
    rank_before_row = rank[..., :1] - tied[..., :1].int()
    wanted = counts.int() - count_per_row(above)[..., None]
    return above | tied & (rank <= rank_before_row + wanted)


def select_largest_overall(scores: Sequence[Tensor], candidates: Sequence[Tensor], count: int) -> list[Tensor]:
    """Mark the `count` candidates of the largest score among all layers together: one threshold for all."""
    chosen = select_largest(torch.cat(list(scores)), torch.cat(list(candidates)), count)
    return list(chosen.split([len(layer) for layer in scores]))


def select_random(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Mark `count` of the candidates, (N,) bool on the generator's device, each with equal chance."""
    return select_largest(torch.rand(len(candidates), generator=generator, device=generator.device), candidates, count)


def per_layer(rule: Callable[[Layer, Tensor], Tensor]) -> Callable:
    """Lift a rule for one layer to all layers, each with its own count."""

    @reads(*fields_read([rule]))
    def of_layers(
        layers: Sequence[Layer], counts: Sequence[int], generator: torch.Generator | None = None
    ) -> list[Tensor]:
        return over_layers(rule, layers, on_device(counts, layers))

    return of_layers


def on_device(counts: Sequence[int], layers: Sequence[Layer]) -> Sequence[Tensor]:
    """Each count as () int32 on the layers' device, in one transfer."""
    return torch.tensor(counts, dtype=torch.int32, device=layers[0].mask.device).unbind()


def count_per_row(mask: Tensor) -> Tensor:
    """The number of True in every row, (…, N) -> (…) int32: a sum in int64 takes ten times as long on a CPU."""
    return mask.sum(-1, dtype=torch.int32)


def count_true(masks: Sequence[Tensor]) -> list[int]:
    """The number of True in each mask, in one transfer to the host."""
    return torch.stack(by_rows(count_per_row, [mask.flatten() for mask in masks])).tolist()


def _kth_largest(scores: Tensor, k: Tensor) -> Tensor:
    """The k-th largest score of every row, (…, 1).  scores: (…, N).  k: (…, 1), from 1 to N."""
    # On the CPU kthvalue takes a third of the time of a sort; on a GPU it scans a whole row with one thread block.
    return (_kth_by_selecting if scores.is_cpu else _kth_by_sorting)(scores, k)


def _kth_by_sorting(scores: Tensor, k: Tensor) -> Tensor:
    return scores.sort(dim=-1, descending=True).values.gather(-1, k.long() - 1)


def _kth_by_selecting(scores: Tensor, k: Tensor) -> Tensor:
    rows = zip(scores.reshape(-1, scores.shape[-1]), k.flatten().tolist(), strict=True)
    return torch.stack([row.kthvalue(len(row) - nth + 1).values for row, nth in rows]).view_as(k)
