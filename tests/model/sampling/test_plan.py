"""Sampling plans: timesteps, key steps by every way of naming them, groups, and the text of a plan."""

import pickle
from itertools import pairwise

import pytest
from diffusers import DDIMScheduler

from model.errors import ModelError
from model.sampling.plan import NAMED_SETS, SamplingPlan


def key_steps(text, steps, n_timestep=2000):
    return list(SamplingPlan.parse(text, steps, n_timestep).key_steps)


@pytest.mark.parametrize("steps", [1, 2, 10, 40, 50, 250, 1000])
def test_timesteps_are_spaced_as_diffusers_trailing(steps):
    scheduler = DDIMScheduler(num_train_timesteps=1000, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    assert list(SamplingPlan(steps, 1000, ()).timesteps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("n_timestep", [7, 40, 99])
def test_timesteps_are_distinct_for_any_number_of_steps(n_timestep):
    for steps in range(1, n_timestep + 1):
        timesteps = SamplingPlan(steps, n_timestep, ()).timesteps
        assert len(timesteps) == steps
        assert timesteps[0] == n_timestep - 1
        assert timesteps[-1] >= 0
        assert all(later < earlier for earlier, later in pairwise(timesteps))


def test_none_and_uniform():
    assert key_steps("none", 5) == [0, 1, 2, 3, 4]
    assert key_steps("uniform:3", 10) == [0, 3, 6, 9]
    assert key_steps("Uniform:1", 3) == [0, 1, 2]
    assert key_steps(" uniform:50 ", 10) == [0]


def test_named_sets_equal_their_definitions():
    assert key_steps("50ls", 50) == [0, 1, 2, 3, 5, 10, 15, 25, 35]
    assert key_steps("50ls2", 50) == [0, 10, 11, 12, 15, 20, 25, 30, 35, 45]
    assert key_steps("50ls3", 50) == [0, 20, 25, 30, 35, 45, 46, 47, 48, 49]
    assert key_steps("50ls4", 50) == [0, 9, 13, 14, 15, 28, 29, 32, 36, 45]
    assert key_steps("75ls", 75) == [*range(10), *range(10, 66, 5), *range(66, 75)]
    assert key_steps("100ls", 100) == [*range(10), *range(10, 86, 5), *range(86, 100)]
    assert key_steps("s2", 50) == [*range(20), *range(20, 41, 2), *range(41, 50)]
    # 9 + 8o = (2k + 3)² at o = k(k + 3)/2
    assert key_steps("pro", 50) == [0, 2, 5, 9, 14, 20, 27, 35, 44]


def test_named_sets_leave_out_what_lies_beyond_the_chain():
    assert key_steps("50ls", 20) == [0, 1, 2, 3, 5, 10, 15]
    assert key_steps("50ls3", 20) == [0]


@pytest.mark.parametrize("text", ["0,5,10", "5 10", "10, 5,0", " 0  5 10 10 ", [0, 5, 10], (10, 5)])
def test_explicit_orders(text):
    assert key_steps(text, 20) == [0, 5, 10]


def test_groups_run_from_key_step_to_key_step():
    plan = SamplingPlan.parse("1,4,9", steps=13, n_timestep=40)
    assert plan.groups == (range(0, 1), range(1, 4), range(4, 9), range(9, 13))


def test_steps_default_to_the_whole_schedule():
    assert SamplingPlan.parse("none", None, 40) == SamplingPlan.parse("none", 40, 40)


@pytest.mark.parametrize("text", ["none", "uniform:7", "uniform:90", "0,5,6", "0", *NAMED_SETS])
@pytest.mark.parametrize("steps", [7, 50, 90])
def test_the_text_of_a_plan_is_read_back_as_the_plan(text, steps):
    plan = SamplingPlan.parse(text, steps, 2000)
    assert SamplingPlan.parse(str(plan), steps, 2000) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_the_text_of_a_plan_is_short():
    assert [str(SamplingPlan.parse(t, 20, 20)) for t in ("none", "uniform:3", "0 2 9")] == [
        "none",
        "uniform:3",
        "0,2,9",
    ]


def test_within_fewer_timesteps():
    plan = SamplingPlan.parse("uniform:4", 10, 100)
    assert plan.within(50) == SamplingPlan(10, 50, (0, 4, 8))
    assert plan.within(8) == SamplingPlan(8, 8, (0, 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unifrm:10", 'did you mean "uniform:K".*accepted: none, uniform:K, auto:N, 50ls'),
        ("uniform", 'did you mean "uniform:K"'),
        ("uniform:0", "uniform:K"),
        ("uniform:-2", "uniform:K"),
        ("uniform:2.5", "uniform:K"),
        ("50ls5", 'did you mean "50ls'),
        ("non", 'did you mean "none"'),
        ("", "accepted:"),
        ("0;5", "accepted:"),
        ("-1,5", "accepted:"),
        (None, "accepted:"),
        (10, "accepted:"),
        ("0,20", "key step 20 .* 0 to 19"),
        ([0, -1], "key step -1"),
        ([0, 2.5], "key step 2.5"),
        (["a"], "key step 'a'"),
    ],
)
def test_refuses_key_steps(text, message):
    with pytest.raises(ModelError, match=message) as error:
        SamplingPlan.parse(text, 20, 2000)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("steps", "n_timestep"), [(0, 10), (11, 10), (-1, 10), (2.5, 10), ("5", 10), (5, "10"), (5, 0)]
)
def test_refuses_steps(steps, n_timestep):
    with pytest.raises(ModelError, match=r"(steps|n_timestep) must"):
        SamplingPlan.parse("none", steps, n_timestep)
