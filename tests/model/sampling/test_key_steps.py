"""Key steps by the measured change: the least total over all plans, known answers, any chain, what is refused."""

import itertools
import time

import numpy as np
import pytest
import torch

from model.errors import ModelError
from model.sampling.key_steps import EncoderChange, key_steps_by_change
from model.sampling.plan import SamplingPlan


def along(*coordinates, timesteps=None):
    """The change of states that have the given coordinates, each a list over the timesteps, by default T-1 .. 0."""
    points = torch.from_numpy(np.array(coordinates, np.float64).T)
    timesteps = tuple(timesteps or reversed(range(len(points))))
    return EncoderChange(timesteps, (points[:, None] - points).square().sum(-1).float())


def random_change(steps, seed=0):
    """States that wander at a speed that changes."""
    rng = np.random.default_rng(seed)
    return along(*np.cumsum(rng.standard_normal((3, steps)) * rng.uniform(0.1, 3, steps), axis=1))


def total(distance, key_steps):
    owner = np.searchsorted(key_steps, np.arange(len(distance)), side="right") - 1
    return distance[np.array(key_steps)[owner], np.arange(len(distance))].sum()


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_other_key_steps_have_a_smaller_total(steps, seed):
    change = random_change(steps, seed)
    for n in range(1, steps + 1):
        chosen = key_steps_by_change(change, change.timesteps, n)
        assert len(chosen) == n and chosen[0] == 0 and list(chosen) == sorted(set(chosen))
        others = ((0, *rest) for rest in itertools.combinations(range(1, steps), n - 1))
        least = min(total(change.distance.numpy(), other) for other in others)
        assert total(change.distance.numpy(), chosen) == pytest.approx(least, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("steps", "n"), [(12, 3), (60, 10), (50, 25)])
def test_constant_speed_gives_even_spacing(steps, n):
    change = along(list(range(steps)))
    assert key_steps_by_change(change, change.timesteps, n) == tuple(range(0, steps, steps // n))


def test_all_change_at_the_end_puts_the_key_steps_there():
    change = along([0] * 16 + [1, 2, 3, 4])
    assert key_steps_by_change(change, change.timesteps, 5) == (0, 16, 17, 18, 19)
    jump = along([0] * 7 + [1] * 13)
    assert key_steps_by_change(jump, jump.timesteps, 2) == (0, 7)


@pytest.mark.parametrize(("steps", "n_timestep"), [(50, 200), (200, 200), (20, 200), (50, 50)])
def test_a_chain_of_other_timesteps_has_its_key_steps_at_the_same_noise(steps, n_timestep):
    """States that stand still until half of the schedule, then move: key steps are in the second half alone."""
    grid = SamplingPlan(40, n_timestep, ()).timesteps
    change = along([max(0.0, n_timestep / 2 - t) for t in grid], timesteps=grid)
    plan = SamplingPlan.parse("auto:6", steps, n_timestep, change)
    timesteps = [plan.timesteps[order] for order in plan.key_steps]
    assert timesteps[0] == n_timestep - 1
    assert max(timesteps[1:]) <= n_timestep / 2
    gaps = -np.diff(timesteps[1:])
    assert gaps.max() - gaps.min() <= n_timestep / steps


def test_between_measured_timesteps_states_move_in_a_straight_line():
    change = along([0.0, 2.0, 2.0], [0.0, 0.0, 4.0], timesteps=[20, 10, 6])
    asked = [20, 15, 10, 8, 6, 2]  # at (0, 0), (1, 0), (2, 0), (2, 2), (2, 4), and beyond the last, (2, 8)
    points = np.array([(0, 0), (1, 0), (2, 0), (2, 2), (2, 4), (2, 8)], float)
    expected = ((points[:, None] - points) ** 2).sum(-1)
    assert np.allclose(change.between(asked), expected)


def test_one_measured_timestep_tells_no_difference():
    assert np.array_equal(EncoderChange((0,), torch.zeros(1, 1)).between([3, 1]), np.zeros((2, 2)))


@pytest.mark.slow
def test_long_chains_take_seconds():
    change = random_change(100)
    change = EncoderChange(SamplingPlan(100, 2000, ()).timesteps, change.distance)
    began = time.perf_counter()
    plan = SamplingPlan.parse("auto:200", None, 2000, change)
    assert time.perf_counter() - began < 20  # two, on a machine that does nothing else
    uniform = SamplingPlan.parse("uniform:10", None, 2000)
    distance = change.between(plan.timesteps)
    assert len(plan.key_steps) == 200
    assert total(distance, plan.key_steps) < 0.7 * total(distance, uniform.key_steps)
    assert SamplingPlan.parse("AUTO:200 ", 2000, 2000, change) == plan
    assert SamplingPlan.parse(str(plan), 2000, 2000) == plan


def test_a_chain_that_is_cut_has_its_key_steps_in_what_is_left():
    change = random_change(40)
    for text, steps in (("auto:3", 10), ("auto:8", 10), ("auto:8", 40)):
        plan = SamplingPlan.parse(text, steps, 40, change, executed=6)
        left = plan.within(6)
        n = min(int(text[5:]), 6)
        assert left.key_steps == plan.key_steps == key_steps_by_change(change, left.timesteps, n)
        assert len(left.key_steps) == n


def test_as_many_as_there_are_steps_is_every_step():
    assert str(SamplingPlan.parse("auto:9", 9, 40, random_change(40))) == "none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auto:5", r"auto:5 needs a measurement .* python -m core\.calibrate -r CHECKPOINT"),
        ("auto:21", "auto:21 asks for more key steps than the chain has steps: give at most auto:20"),
        ("auto:0", 'did you mean "auto:N".*accepted: none, uniform:K, auto:N'),
        ("auto", 'did you mean "auto:N"'),
        ("auto:2.5", 'did you mean "auto:N"'),
    ],
)
def test_refuses(text, message):
    with pytest.raises(ModelError, match=message) as error:
        SamplingPlan.parse(text, 20, 2000)
    assert "\n" not in str(error.value)


def test_what_holds_without_a_measurement_can_be_checked():
    assert SamplingPlan.check("auto:20", 20, 2000).steps == 20
    with pytest.raises(ModelError, match="more key steps"):
        SamplingPlan.check("auto:21", 20, 2000)
    with pytest.raises(ModelError, match="accepted"):
        SamplingPlan.check("aut:3", 20, 2000)
    assert SamplingPlan.check("uniform:4", 20, 2000) == SamplingPlan.parse("uniform:4", 20, 2000)


@pytest.mark.parametrize(
    ("timesteps", "distance"),
    [
        ((), torch.zeros(0, 0)),
        ((1, 2), torch.zeros(2, 2)),
        ((2, 2), torch.zeros(2, 2)),
        ((2, 1), torch.zeros(3, 3)),
        ((2, 1), torch.full((2, 2), torch.nan)),
    ],
)
def test_refuses_a_measurement_that_is_none(timesteps, distance):
    with pytest.raises(ModelError, match="measured encoder change"):
        EncoderChange(timesteps, distance)
