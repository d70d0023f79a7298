"""Several sets of images in one stream of batches."""

from itertools import islice

import numpy as np
import pytest
from PIL import Image

from data import Draw, SRDataset, TrainStream, train_loader
from data.mixture import MixedStream, Mixture

SHARES = [3, 1]


@pytest.fixture
def mixture(tmp_path):
    """Five images of 16 pixels, and three of 32."""
    for folder, side, count in (("small", 16, 5), ("large", 32, 3)):
        (tmp_path / folder).mkdir()
        for n in range(count):
            noise = np.random.default_rng(n).integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / folder / f"{folder}{n}.png")
    spec = {"l_resolution": 8, "augment": True}
    sides = {"small": 16, "large": 32}
    sets = [SRDataset(spec | {"dataroot": tmp_path / name, "r_resolution": side}, True) for name, side in sides.items()]
    return Mixture(sets, SHARES)


def test_each_batch_is_that_of_one_set(mixture):
    """At each step it is the batch that this set alone would have, and sets come in proportion to their shares."""
    stream = MixedStream(mixture, (4, 2), seed=7)
    alone = [TrainStream(5, 4, 7), TrainStream(3, 2, 7 + 2**32)]
    of_large = 0
    for step, batch in enumerate(islice(stream, 2000)):
        number = batch[0].index >= 5
        of_large += number
        assert batch == [Draw(5 * number + index, seed) for index, seed in alone[number].batch(step)]
    assert of_large / 2000 == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 2000))


def test_it_continues_from_its_step_and_is_shared_out(mixture):
    whole = list(islice(MixedStream(mixture, (4, 2), seed=1), 30))
    assert list(islice(MixedStream(mixture, (4, 2), seed=1, start_step=11), 19)) == whole[11:]
    ranks = [list(islice(MixedStream(mixture, (2, 1), 1, rank, world=2), 30)) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole


def test_samples_are_those_of_their_sets(mixture):
    batches = list(islice(train_loader(mixture, [4, 2], seed=0), 12))
    sides = {(int(batch["set"][0]), len(batch["hr"]), batch["hr"].shape[-1]) for batch in batches}
    assert sides == {(0, 4, 16), (1, 2, 32)}
    for batch in batches:
        assert all(name.startswith("large" if batch["set"][0] else "small") for name in batch["name"])
