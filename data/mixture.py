"""Several sets of images to train on, in one stream: each batch is of one set, drawn by their shares."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from torch.utils.data import Dataset

from data.dataset import SRDataset
from data.stream import Draw, TrainStream


class Mixture(Dataset):
    """The sets one after the other as one dataset. A sample tells its set's number too, under "set"."""

    def __init__(self, sets: Sequence[SRDataset], shares: Sequence[float]) -> None:
        """shares: of the steps that are of each set, of which only the ratios count."""
        self.sets, self.shares = list(sets), list(shares)
        self.starts = [0, *accumulate(len(images) for images in sets)]

    def __len__(self) -> int:
        return self.starts[-1]

    def fill_cache(self) -> None:
        for images in self.sets:
            images.fill_cache()

    @property
    def cache_mb(self) -> int:
        return sum(images.cache_mb for images in self.sets)

    def __getitem__(self, item: Draw) -> dict:
        number = bisect_right(self.starts, item.index) - 1
        return self.sets[number][Draw(item.index - self.starts[number], item.seed)] | {"set": number}


class MixedStream:
    """Endless batch sampler over a `Mixture`: step s is a batch of one set, which the seed and s alone determine.

    It is the batch that a `TrainStream` of that set alone would have at step s.
    """

    def __init__(
        self,
        mixture: Mixture,
        batch_sizes: Sequence[int],  # of each set, in each process
        seed: int,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
    ) -> None:
        self.streams = [
            TrainStream(len(images), batch_size, seed + (n << 32), rank, world, start_step, images.weights)
            for n, (images, batch_size) in enumerate(zip(mixture.sets, batch_sizes, strict=True))
        ]
        self.starts, self.seed, self.start_step = mixture.starts, seed, start_step
        self.bounds = np.cumsum(mixture.shares) / np.sum(mixture.shares)

    def __iter__(self) -> Iterator[list[Draw]]:
        step = self.start_step
        while True:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> list[Draw]:
        """This rank's samples of one step."""
        number = int(np.searchsorted(self.bounds[:-1], np.random.default_rng((self.seed, 1, step)).random(), "right"))
        return [Draw(self.starts[number] + index, seed) for index, seed in self.streams[number].batch(step)]
