"""Key steps that fit the network: where its encoder's state changes fast there are more of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from model.errors import ModelError


@dataclass(frozen=True, eq=False)
class EncoderChange:
    """How far the encoder's states at the timesteps of a chain are from each other, as `model.sampling.calibration`
    measures it.

    `distance[i, j]` is the squared distance of the states at `timesteps[i]` and `timesteps[j]`, in units of the state's
    energy, so that 0.01 means a change by a tenth. Raises ModelError unless both fit each other.
    """

    timesteps: tuple[int, ...]  # descending, (T,)
    distance: Tensor  # float32 (T, T) on the CPU, symmetric, 0 on the diagonal

    def __post_init__(self) -> None:
        n = len(self.timesteps)
        if n == 0 or list(self.timesteps) != sorted(set(self.timesteps), reverse=True):
            raise ModelError("the timesteps of a measured encoder change must descend")
        if self.distance.shape != (n, n) or not bool(torch.isfinite(self.distance).all()):
            raise ModelError(f"a measured encoder change must be finite numbers ({n}, {n}), one for each two timesteps")

    def between(self, timesteps: Sequence[int]) -> np.ndarray:
        """The squared distances of the states at any S timesteps, float64 (S, S).

        Between two measured timesteps the state is taken to move in a straight line from one to the other, and beyond
        the last on through it. A state is then a weighted sum of measured ones, Σ w_i·s_i with Σ w_i = 1, and such sums
        are Σ_ij w_i·v_j·D_ij - ½·Σ_ij w_i·w_j·D_ij - ½·Σ_ij v_i·v_j·D_ij apart, squared.
        """
        weights = line_weights(np.array(self.timesteps, np.float64), np.array(timesteps, np.float64))
        products = weights @ self.distance.double().numpy() @ weights.T
        products = (products + products.T) / 2
        own = np.diagonal(products) / 2
        return (products - own[:, None] - own).clip(min=0)


def line_weights(grid: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The weights (S, T) of the descending grid points (T,) with which piecewise linear interpolation makes a value at
    each of the points (S,); outside the grid, linear extrapolation."""
    weights = np.zeros((len(points), len(grid)))
    if len(grid) == 1:
        weights[:] = 1
        return weights
    cell = np.searchsorted(-grid, -points, side="right").clip(1, len(grid) - 1) - 1
    share = (grid[cell] - points) / (grid[cell] - grid[cell + 1])
    rows = np.arange(len(points))
    weights[rows, cell] = 1 - share
    weights[rows, cell + 1] = share
    return weights


@lru_cache(maxsize=64)  # every batch of a long run asks for the same plan
def key_steps_by_change(change: EncoderChange, timesteps: tuple[int, ...], n: int) -> tuple[int, ...]:
    """The orders of the n key steps, 0 among them, of a chain over the given timesteps (S,), 1 ≤ n ≤ S, with the least
    total, over all steps, of the distance between the state of the step and that of its key step.

    Exact, by dynamic programming over the groups: O(n·(S - n)²), two seconds for S = 2000 and n = 200.
    """
    cost = group_costs(change.between(timesteps))
    width = len(timesteps) - n + 1  # group g starts at orders g .. g+width-1, as every group has at least one step
    column = np.arange(width)
    best = cost[:width, 0]  # of one group: the total up to each order at which it may end
    first = []
    for g in range(1, n):
        totals = best + cost[g : g + width, g : g + width]  # [end, start] of group g, both counted from g
        first.append(totals.argmin(axis=1))
        best = totals[column, first[-1]]
    orders, end = [], width - 1
    for g in range(n - 1, 0, -1):
        end = int(first[g - 1][end])  # where group g starts; the group before ends one order earlier
        orders.append(g + end)
    return (0, *reversed(orders))


def group_costs(distance: np.ndarray) -> np.ndarray:
    """[last, first] of a group of steps -> the sum of its distances to its first; infinite where last < first."""
    costs = np.cumsum(np.triu(distance), axis=1).T.copy()
    costs[np.triu_indices(len(costs), 1)] = np.inf
    return costs
