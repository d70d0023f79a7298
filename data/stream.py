"""Which image each training step sees: a pure function of the seed and the step, whatever the number of processes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data.errors import DataError


class Draw(NamedTuple):
    """One training sample: which image, and the seed of everything random about it (flip, crop), unlike any other's."""

    index: int  # type: ignore[assignment]  # not the method of tuples
    seed: int


class TrainStream:
    """Endless batch sampler for `DataLoader(batch_sampler=...)` over one shuffled epoch after another.

    Elements k = 0, 1, 2, ... run through a fresh permutation of the images in every epoch. Step s takes the elements
    s * G ... (s + 1) * G - 1 with G = batch_size * world, and each rank its contiguous share of them; so 1 process
    with batch 4 and 4 processes with batch 1 train on the same samples, and a run continues from its step alone.
    With weights an epoch has as many elements, but image i comes length * weights[i] / sum(weights) times in it on
    average, rounded down or up in each epoch.

    length: images in the dataset;  batch_size: samples per process;  start_step: the first step of the iteration;
    weights: (length,), above 0, of which only the ratios count.  Holds one permutation at a time.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        weights: np.ndarray | None = None,
    ):
        if length < 1 or batch_size < 1 or not 0 <= rank < world or start_step < 0 or seed < 0:
            raise DataError(
                "a training stream needs length, batch_size >= 1, 0 <= rank < world, start_step >= 0 and seed >= 0, "
                f"not length {length}, batch_size {batch_size}, rank {rank} of {world}, step {start_step}, seed {seed}"
            )
        if weights is not None and not (len(weights) == length and np.all(np.isfinite(weights) & (weights > 0))):
            raise DataError(f"a training stream needs a finite weight above 0 for each of its {length} images")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world, self.start_step = rank, world, start_step
        self.weights = weights
        self._permutation: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))  # (epoch, order of its images)

    def __iter__(self) -> Iterator[list[Draw]]:
        step = self.start_step
        while True:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> list[Draw]:
        """This rank's samples of one step."""
        first = (step * self.world + self.rank) * self.batch_size
        return [self.element(k) for k in range(first, first + self.batch_size)]

    def element(self, k: int) -> Draw:
        """Element k of the endless stream."""
        epoch, position = divmod(k, self.length)
        return Draw(int(self._order(epoch)[position]), seed=(self.seed << 64) + k)

    def _order(self, epoch: int) -> np.ndarray:
        if self._permutation[0] != epoch:
            rng = np.random.default_rng((self.seed, 0, epoch))
            order = rng.permutation(self.length)
            if self.weights is not None:
                order = resample(self.weights, rng)[order]
            self._permutation = (epoch, order)
        return self._permutation[1]


def resample(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many indices as there are weights, in rising order, each in proportion to its weight, rounded down or up.

    Systematic resampling: equidistant points, moved together at random, on the weights laid end to end. These lie in
    random order, lest neighbours share a draw in every epoch.
    """
    order = rng.permutation(len(weights))
    ends = np.cumsum(weights[order])
    points = (np.arange(len(weights)) + rng.random()) * (ends[-1] / len(weights))
    return np.sort(order[np.searchsorted(ends[:-1], points, side="right")])
