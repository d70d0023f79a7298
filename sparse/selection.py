"""Selections of exactly k elements, ties to the lowest index, without a full sort or a word to the host."""

import torch
from torch import Tensor


def select_largest(scores: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Mark the `count` candidates of the largest score.

    scores: (N,) float; NaN counts as 0.  candidates: (N,) bool, at least `count` of them True.
    Returns (N,) bool with exactly `count` True.
    """
    if count == 0:
        return torch.zeros_like(candidates)
    scores = _restrict(scores, candidates)
    threshold = _kth_largest(scores, count)
    above = scores > threshold
    tied = candidates & (scores == threshold)
    return above | tied & (tied.cumsum(0, dtype=torch.int32) <= count - above.sum())


def select_largest_per_row(scores: Tensor, candidates: Tensor, counts: Tensor, most: int) -> Tensor:
    """Mark in every row r the `counts[r]` candidates of the largest score.

    scores: (R, N).  candidates: (R, N) bool.  counts: (R,) int64 on the scores' device, the largest of them `most`.
    Returns (R, N) bool.
    """
    if most == 0:
        return torch.zeros_like(candidates)
    scores = _restrict(scores, candidates)
    counts = counts[:, None]
    threshold = scores.topk(most, dim=1).values.gather(1, (counts - 1).clamp(min=0))
    above = scores > threshold
    tied = candidates & (scores == threshold)
    return above | tied & (tied.cumsum(1, dtype=torch.int32) <= counts - above.sum(1, keepdim=True))


def select_largest_overall(scores: list[Tensor], candidates: list[Tensor], count: int) -> list[Tensor]:
    """Mark the `count` candidates of the largest score among all layers together: one threshold for all."""
    chosen = select_largest(torch.cat(scores), torch.cat(candidates), count)
    return list(chosen.split([len(layer) for layer in scores]))


def select_random(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Mark `count` of the candidates, (N,) bool on the generator's device, each with equal chance."""
    return select_largest(torch.rand(len(candidates), generator=generator, device=generator.device), candidates, count)


def count_true(masks: list[Tensor]) -> list[int]:
    """Return the number of True in each mask, in one transfer to the host."""
    return torch.stack([mask.sum() for mask in masks]).tolist()


def _restrict(scores: Tensor, candidates: Tensor) -> Tensor:
    infinity = float("inf")
    return scores.nan_to_num(nan=0.0, posinf=infinity, neginf=-infinity).masked_fill_(~candidates, -infinity)


def _kth_largest(scores: Tensor, k: int) -> Tensor:
    # On the CPU kthvalue takes half the time of topk; on a GPU it scans a whole layer with one thread block.
    if scores.is_cuda:
        return scores.topk(k, sorted=False).values.min()
    return scores.kthvalue(len(scores) - k + 1).values
