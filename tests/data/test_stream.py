from itertools import islice

import pytest
from torch.utils.data import DataLoader

from data import DataError, Draw, TrainStream


def take(steps, **kwargs):
    return list(islice(TrainStream(**kwargs), steps))


def flat(batches):
    return [draw for batch in batches for draw in batch]


def test_every_epoch_is_a_permutation():
    indices = [draw.index for draw in flat(take(30, length=10, batch_size=5, seed=0))]
    epochs = [indices[i : i + 10] for i in range(0, 150, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 15
    assert all(epoch != sorted(epoch) for epoch in epochs)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("length", [3, 10, 64])
def test_processes_share_out_the_same_batches(world, length):
    alone = take(25, length=length, batch_size=4, seed=7)
    ranks = [take(25, length=length, batch_size=4 // world, seed=7, rank=r, world=world) for r in range(world)]
    assert [flat(shares) for shares in zip(*ranks, strict=True)] == alone


def test_the_stream_continues_from_its_step():
    whole = take(40, length=13, batch_size=3, seed=1, rank=1, world=2)
    for start in (1, 4, 17, 39):
        assert take(40 - start, length=13, batch_size=3, seed=1, rank=1, world=2, start_step=start) == whole[start:]


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


def test_seeds():
    draws = flat(take(200, length=10, batch_size=5, seed=0))
    assert all(type(draw) is Draw and type(draw.index) is int and type(draw.seed) is int for draw in draws)
    assert len({draw.seed for draw in draws}) == 1000
    assert flat(take(200, length=10, batch_size=5, seed=0)) == draws
    other = flat(take(200, length=10, batch_size=5, seed=1))
    assert not {draw.seed for draw in draws} & {draw.seed for draw in other}
    assert [draw.index for draw in draws] != [draw.index for draw in other]


def test_epoch_of():
    stream = TrainStream(length=10, batch_size=2, seed=0, world=2)
    assert [stream.epoch_of(step) for step in range(7)] == [0, 0, 0, 1, 1, 2, 2]
    assert TrainStream(length=2, batch_size=7, seed=0).epoch_of(2) == 7


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
