"""Prune-rate schedules against their closed forms."""

from math import cos, pi

import pytest

from sparse.schedule import FINAL_PRUNE_RATE, PRUNE_RATE_SCHEDULES


@pytest.mark.parametrize("progress", [0.0, 0.25, 1 / 3, 0.5, 0.9, 1.0])
def test_closed_forms(progress):
    final = FINAL_PRUNE_RATE
    expected = {
        "cosine": final + 0.5 * (0.5 - final) * (1 + cos(pi * progress)),
        "linear": 0.5 * (1 - progress) + final * progress,
        "constant": 0.5,
    }
    for name, schedule in PRUNE_RATE_SCHEDULES.items():
        assert schedule(0.5, progress) == pytest.approx(expected[name], abs=1e-15), name


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_ends(name):
    schedule = PRUNE_RATE_SCHEDULES[name]
    assert (schedule(0.5, 0.0), schedule(0.5, 1.0)) == (0.5, FINAL_PRUNE_RATE)
    assert schedule(0.5, 0.5) == pytest.approx((0.5 + FINAL_PRUNE_RATE) / 2)


@pytest.mark.parametrize("name", PRUNE_RATE_SCHEDULES)
def test_a_rate_below_the_final_one_stays(name):
    assert PRUNE_RATE_SCHEDULES[name](0.0, 0.7) == 0
    assert PRUNE_RATE_SCHEDULES[name](0.001, 0.7) == 0.001
