"""Prune-rate schedules against their closed forms."""

from math import cos, pi

import pytest

from sparse.schedule import FINAL_PRUNE_RATE, PRUNE_RATE_SCHEDULES, UpdateSchedule


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


def test_a_stage_late_in_a_run_is_scheduled_as_one_from_step_0():
    first, later = (UpdateSchedule(every=3, start=s, until=s + 12, prune_rate=0.5, decay="cosine") for s in (0, 1000))
    steps = range(1, 30)
    assert [step for step in steps if first.is_due(step)] == [3, 6, 9, 12]
    assert [first.is_due(step) for step in steps] == [later.is_due(1000 + step) for step in steps]
    assert [first.prune_rate_at(step) for step in steps] == [later.prune_rate_at(1000 + step) for step in steps]


def test_without_an_end_updates_go_on_at_the_first_rate():
    schedule = UpdateSchedule(every=5, start=2, until=None, prune_rate=0.3, decay="linear")
    assert schedule.is_due(10**6 + 2) and not schedule.is_due(10**6) and schedule.prune_rate_at(10**6) == 0.3
