"""Which image each training step sees: a pure function of the seed and the step, whatever the number of processes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data.errors import DataError


class Draw(NamedTuple):
    """One training sample: which image, and the seed of everything random about it (flip, crop), unlike any other's."""

    index: int
    seed: int


class TrainStream:
    """Endless batch sampler for `DataLoader(batch_sampler=...)` over one shuffled epoch after another.

    Elements k = 0, 1, 2, ... run through a fresh permutation of the images in every epoch. Step s takes the elements
    s * G ... (s + 1) * G - 1 with G = batch_size * world, and each rank its contiguous share of them; so 1 process
    with batch 4 and 4 processes with batch 1 train on the same samples, and a run continues from its step alone.

    length: images in the dataset;  batch_size: samples per process;  start_step: the first step of the iteration.
    Holds one permutation at a time.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, start_step: int = 0):
        if length < 1 or batch_size < 1 or not 0 <= rank < world or start_step < 0 or seed < 0:
            raise DataError(
                "a training stream needs length, batch_size >= 1, 0 <= rank < world, start_step >= 0 and seed >= 0, "
                f"not length {length}, batch_size {batch_size}, rank {rank} of {world}, step {start_step}, seed {seed}"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world, self.start_step = rank, world, start_step
        self._permutation = (-1, np.empty(0, dtype=np.int64))  # (epoch, order of the images in it)

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

    def epoch_of(self, step: int) -> int:
        """The epoch, from 0, in which a step begins."""
        return step * self.batch_size * self.world // self.length

    def _order(self, epoch: int) -> np.ndarray:
        if self._permutation[0] != epoch:
            order = np.random.default_rng((self.seed, 0, epoch)).permutation(self.length)
            self._permutation = (epoch, order)
        return self._permutation[1]
