"""Sharing a whole number of weights among layers: exact totals, and no layer above its capacity."""

import math
from collections.abc import Sequence

import numpy as np

from sparse.errors import SparseError, check_name

LAST_RESERVE = 0.01  # of a layer's inactive weights: taken only when no other layer has room


def share(total: int, weights: Sequence[float] | np.ndarray, capacities: Sequence[int] | np.ndarray) -> np.ndarray:
    """Share `total` in proportion to `weights` by the largest remainder, filling no share above its capacity.

    What a full share cannot take goes to the others, again by weight; shares of weight 0 are the last to get any, by
    the room they have. Equal remainders go to the lowest index. Returns int64 counts that add up to `total`.
    """
    wanted = np.nan_to_num(np.asarray(weights, dtype=np.float64), nan=0.0, posinf=0.0)
    most = np.asarray(capacities, dtype=np.int64)
    if not 0 <= total <= most.sum():
        raise SparseError(f"cannot share {total} weights among layers with room for {most.sum()}")
    counts = np.zeros_like(most)
    while (left := int(total - counts.sum())) > 0:
        room = most - counts
        pull = np.where(room > 0, wanted, 0.0)
        pull = pull if pull.sum() > 0 else room
        quota = left * (pull / pull.sum())
        full = (quota >= room) & (room > 0)
        if full.any():
            counts[full] = most[full]
            continue
        counts += np.floor(quota).astype(np.int64)
        remainder = quota - np.floor(quota)
        counts[np.argsort(-remainder, kind="stable")[: int(total - counts.sum())]] += 1
    return counts


def share_regrowth(total: int, importance: Sequence[float], inactive: Sequence[int]) -> list[int]:
    """Share the regrowth by importance: a layer takes at most 99 % of its inactive weights while another has room."""
    room = np.asarray(inactive, dtype=np.int64)
    first = np.floor((1 - LAST_RESERVE) * room).astype(np.int64)
    if total <= first.sum():
        return share(total, importance, first).tolist()
    return (first + share(total - int(first.sum()), importance, room - first)).tolist()


def constant(shape: Sequence[int]) -> float:
    """The same density in every layer."""
    return 1.0


def erdos_renyi(shape: Sequence[int]) -> float:
    """Density in proportion to (n_in + n_out) / (n_in · n_out) (Mocanu et al. 2018, arXiv 1707.04780, equation 1)."""
    return sum(shape[:2]) / math.prod(shape[:2])


def erdos_renyi_kernel(shape: Sequence[int]) -> float:
    """Density in proportion to (n_in + n_out + h + w) / (n_in · n_out · h · w)
    (RigL, Evci et al. 2020, arXiv 1911.11134, section 3).
    """
    return sum(shape) / math.prod(shape)


INITIAL_DENSITIES = {"constant": constant, "erdos_renyi": erdos_renyi, "erdos_renyi_kernel": erdos_renyi_kernel}


def initial_counts(name: str, shapes: Sequence[Sequence[int]], total: int) -> list[int]:
    """How many weights of each layer are active at first; they add up to `total`.

    shapes: (n_out, n_in, …kernel) of each layer.
    A layer whose density would exceed 1 is dense and the others share the rest. A layer that would get nothing gets
    one weight from the largest share, as long as there are enough: nothing passes through a layer of zeros.
    """
    check_name("init", name, INITIAL_DENSITIES)
    sizes = [math.prod(shape) for shape in shapes]
    weights = [INITIAL_DENSITIES[name](shape) * size for shape, size in zip(shapes, sizes, strict=True)]
    counts = share(total, weights, sizes)
    for empty in np.flatnonzero(counts == 0):
        if counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[empty] += 1
    return counts.tolist()
