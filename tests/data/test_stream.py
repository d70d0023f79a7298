from itertools import islice

import numpy as np
import pytest
from torch.utils.data import DataLoader

from data import DataError, Draw, TrainStream

UNEQUAL = np.array([1, 0.25, 1, 3, 0.25, 1, 0.5, 0.1, 1, 0.25])


def take(steps, **kwargs):
    return list(islice(TrainStream(**kwargs), steps))


def flat(batches):
    return [draw for batch in batches for draw in batch]


def counts_by_epoch(weights, epochs, seed=0):
    """(epochs, images): how often each image comes in each epoch."""
    length = len(weights)
    batches = take(epochs, length=length, batch_size=length, seed=seed, weights=weights)
    return np.array([np.bincount([draw.index for draw in batch], minlength=length) for batch in batches])


def test_every_epoch_is_a_permutation():
    indices = [draw.index for draw in flat(take(30, length=10, batch_size=5, seed=0))]
    epochs = [indices[i : i + 10] for i in range(0, 150, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 15
    assert all(epoch != sorted(epoch) for epoch in epochs)


def test_the_order_is_that_of_earlier_runs():
    batches = take(20, length=7, batch_size=5, seed=3)
    order = np.concatenate([np.random.default_rng((3, 0, epoch)).permutation(7) for epoch in range(15)])
    assert flat(batches) == [Draw(order[k], 3 * 2**64 + k) for k in range(100)]
    assert take(20, length=7, batch_size=5, seed=3, weights=np.full(7, 0.25)) == batches


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize(("length", "weights"), [(3, None), (10, None), (64, None), (10, UNEQUAL)])
def test_processes_share_out_the_same_batches(world, length, weights):
    same = {"length": length, "seed": 7, "weights": weights}
    alone = take(25, batch_size=4, **same)
    ranks = [take(25, batch_size=4 // world, rank=r, world=world, **same) for r in range(world)]
    assert [flat(shares) for shares in zip(*ranks, strict=True)] == alone


@pytest.mark.parametrize("weights", [None, UNEQUAL])
def test_the_stream_continues_from_its_step(weights):
    same = {"length": 10, "batch_size": 3, "seed": 1, "rank": 1, "world": 2, "weights": weights}
    whole = take(40, **same)
    for start in (1, 4, 17, 39):
        assert take(40 - start, start_step=start, **same) == whole[start:]


def test_weights_make_images_come_more_or_less_often():
    weights = np.array([1, 1, 1, 1, 0.25, 0.25, 0.25, 0.25])  # 8 images of a sum of 5: 1.6 times each, or 0.4
    counts = counts_by_epoch(weights, 4000)
    assert set(counts[:, :4].flat) == {1, 2} and set(counts[:, 4:].flat) == {0, 1}
    assert np.all(counts.sum(1) == 8)
    error = (0.6 * 0.4 / 4000) ** 0.5  # of the mean of counts that are rounded up in 6, or 4, of 10 epochs
    assert np.all(np.abs(counts.mean(0) - np.repeat([1.6, 0.4], 4)) < 4.5 * error)


def test_every_count_is_the_expected_one_rounded_down_or_up():
    expected = 10 * UNEQUAL / UNEQUAL.sum()
    for seed in range(20):
        counts = counts_by_epoch(UNEQUAL, 100, seed)
        assert np.all((counts == np.floor(expected)) | (counts == np.ceil(expected)))


def test_weighted_images_are_drawn_independently_of_their_neighbours():
    counts = counts_by_epoch(np.array([1, 1, 1, 1, 0.25, 0.25, 0.25, 0.25]), 1000)
    assert set(counts[:, 4:].sum(1)) == {0, 1, 2, 3, 4}
    pairs = [np.mean(counts[:, a] * counts[:, b]) for a in range(4, 8) for b in range(4, a)]
    assert max(pairs) - min(pairs) < 0.08  # in fixed order, of neighbours none


def test_weighted_images_come_in_random_order():
    stream = TrainStream(length=4, batch_size=4, seed=0, weights=np.array([3.0, 1, 1, 1]))  # 2 times, and 2/3
    places = np.array([[draw.index == 0 for draw in stream.batch(step)] for step in range(2000)])
    assert np.all(places.sum(1) == 2)
    assert np.all(np.abs(places.mean(0) - 0.5) < 4.5 * (0.25 / 2000) ** 0.5)
    adjacent = np.any(places[:, :-1] & places[:, 1:], axis=1)  # in 3 of 6 ways to place two
    assert abs(adjacent.mean() - 0.5) < 4.5 * (0.25 / 2000) ** 0.5


def test_batches_larger_than_the_dataset():
    batches = take(4, length=3, batch_size=8, seed=0)
    assert all(len(batch) == 8 for batch in batches)
    indices = [draw.index for draw in flat(batches)][:30]
    assert all(sorted(indices[i : i + 3]) == [0, 1, 2] for i in range(0, 30, 3))


def test_a_batch_is_a_function_of_its_step():
    stream = TrainStream(length=9, batch_size=4, seed=3)
    forwards = [stream.batch(step) for step in range(20)]
    assert [stream.batch(step) for step in reversed(range(20))] == forwards[::-1]
    assert list(islice(stream, 20)) == forwards
    assert list(islice(stream, 20)) == forwards


@pytest.mark.parametrize("weights", [None, UNEQUAL])
def test_seeds(weights):
    draws = flat(take(200, length=10, batch_size=5, seed=0, weights=weights))
    assert all(type(draw) is Draw and type(draw.index) is int and type(draw.seed) is int for draw in draws)
    assert len({draw.seed for draw in draws}) == 1000
    assert flat(take(200, length=10, batch_size=5, seed=0, weights=weights)) == draws
    other = flat(take(200, length=10, batch_size=5, seed=1, weights=weights))
    assert not {draw.seed for draw in draws} & {draw.seed for draw in other}
    assert [draw.index for draw in draws] != [draw.index for draw in other]


def test_as_a_batch_sampler():
    stream = TrainStream(length=5, batch_size=3, seed=0, start_step=2)

    class Echo:
        def __getitem__(self, draw):
            return draw.index

    batches = [batch.tolist() for batch in islice(DataLoader(Echo(), batch_sampler=stream), 4)]
    assert batches == [[draw.index for draw in stream.batch(step)] for step in range(2, 6)]


@pytest.mark.parametrize(
    "wrong",
    [{"length": 0}, {"batch_size": 0}, {"rank": 2, "world": 2}, {"rank": -1}, {"start_step": -1}, {"seed": -1}],
)
def test_impossible_streams(wrong):
    with pytest.raises(DataError, match="training stream needs"):
        TrainStream(**{"length": 4, "batch_size": 2, "seed": 0, **wrong})


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 1, 0], [1, 1, 1, -1], [1, 1, 1, np.nan], [1, 1, 1, np.inf]])
def test_impossible_weights(weights):
    with pytest.raises(DataError, match="a finite weight above 0 for each of its 4 images"):
        TrainStream(length=4, batch_size=2, seed=0, weights=np.array(weights))
