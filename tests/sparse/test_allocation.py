"""Sharing of whole numbers, and initial densities, against their definitions."""

from fractions import Fraction
from math import floor, prod

import numpy as np
import pytest

from sparse import SparseError
from sparse.allocation import initial_counts, share, share_regrowth


def largest_remainder(total, weights):
    """Hamilton's method in exact arithmetic, without capacities."""
    quotas = [Fraction(total) * weight / sum(weights) for weight in weights]
    counts = [floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda i: (counts[i] - quotas[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def test_largest_remainder():
    random = np.random.default_rng(0)
    for _ in range(200):
        weights = random.integers(1, 1000, size=random.integers(1, 30)).tolist()
        total = int(random.integers(0, 100_000))
        assert share(total, weights, [total] * len(weights)).tolist() == largest_remainder(total, weights)


def test_known_shares():
    assert share(10, [1, 1, 1], [10, 10, 10]).tolist() == [4, 3, 3]
    assert share(10, [1, 1, 1], [1, 10, 10]).tolist() == [1, 5, 4]
    assert share(10, [8, 1, 1], [2, 5, 10]).tolist() == [2, 4, 4]
    assert share(6, [1, 0, 0], [2, 3, 9]).tolist() == [2, 1, 3]
    assert share(6, [0, 0, 0], [3, 6, 9]).tolist() == [1, 2, 3]
    assert share(4, [float("nan"), float("inf"), 1], [9, 9, 9]).tolist() == [0, 0, 4]
    assert share(0, [1, 2], [0, 0]).tolist() == [0, 0]


def test_shares_are_exact_within_capacities_and_proportional_below_them():
    random = np.random.default_rng(1)
    for _ in range(500):
        n = random.integers(1, 40)
        weights = random.exponential(size=n) ** 4 * (random.random(n) < 0.8)
        capacities = random.integers(0, 10_000_000, size=n) * (random.random(n) < 0.9)
        total = int(random.integers(0, capacities.sum() + 1))
        counts = share(total, weights, capacities)
        assert counts.sum() == total
        assert (counts >= 0).all() and (counts <= capacities).all()
        partial = (counts < capacities) & (weights > 0)
        if partial.any():  # one common factor explains all shares that are not full
            low, high = (counts - 1)[partial] / weights[partial], (counts + 1)[partial] / weights[partial]
            assert low.max() <= high.min() * (1 + 1e-9)


def test_no_room_is_refused():
    with pytest.raises(SparseError, match="cannot share 5 weights"):
        share(5, [1, 1], [2, 2])


def test_regrowth_leaves_one_percent_while_another_layer_has_room():
    assert share_regrowth(300, [0.9, 0.1], [200, 1000]) == [198, 102]
    assert share_regrowth(1190, [0.9, 0.1], [200, 1000]) == [200, 990]
    assert share_regrowth(1200, [0.9, 0.1], [200, 1000]) == [200, 1000]


SHAPES = [(64, 3, 3, 3), (128, 64, 3, 3), (256, 128, 1, 1), (100, 256), (10, 100)]


@pytest.mark.parametrize("density", [0.001, 0.02, 0.15, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("init", ["constant", "erdos_renyi", "erdos_renyi_kernel"])
def test_initial_total_is_exact(init, density):
    sizes = [prod(shape) for shape in SHAPES]
    counts = initial_counts(init, SHAPES, round(density * sum(sizes)))
    assert sum(counts) == round(density * sum(sizes))
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))


def test_constant_density():
    counts = initial_counts("constant", SHAPES, 18_000)
    density = 18_000 / sum(map(prod, SHAPES))
    assert all(abs(count - density * prod(shape)) < 1 for count, shape in zip(counts, SHAPES, strict=True))


@pytest.mark.parametrize(
    ("init", "factor"),
    [
        ("erdos_renyi", lambda out, inp, *kernel: (inp + out) / (inp * out)),
        ("erdos_renyi_kernel", lambda out, inp, *kernel: (inp + out + sum(kernel)) / (inp * out * prod(kernel))),
    ],
)
def test_erdos_renyi_densities_have_one_scale(init, factor):
    """density_l = ε · factor_l for every layer that is not dense, with one ε; dense where ε · factor_l exceeds 1."""
    sizes = np.array([prod(shape) for shape in SHAPES])
    counts = np.array(initial_counts(init, SHAPES, round(0.1 * sizes.sum())))
    factors = np.array([factor(*shape) for shape in SHAPES])
    dense = counts == sizes
    scale = (counts.sum() - sizes[dense].sum()) / (factors * sizes)[~dense].sum()
    assert np.abs(counts - scale * factors * sizes)[~dense].max() < 1
    assert (scale * factors[dense] >= 1).all()


def test_every_layer_starts_with_a_weight_where_there_are_enough():
    assert initial_counts("constant", [(100, 100), (1, 4), (1, 5)], 20) == [18, 1, 1]
    assert sorted(initial_counts("constant", [(100, 100), (1, 4), (1, 5)], 2)) == [0, 1, 1]
