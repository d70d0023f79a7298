"""What a long chain says of its time."""

import pytest
import torch

from core.config import check_config
from core.sampling.chain_progress import LARGE, ChainProgress, StepCount, duration, progress_of_chain
from core.sampling.super_resolution import Sampling
from model.schedule import NoiseSchedule
from tests.core.conftest import SMALL


def chain(steps, key_steps, decode_batch=None):
    schedule = NoiseSchedule({"schedule": "linear", "n_timestep": 100, "linear_start": 1e-4, "linear_end": 2e-2})
    settings = check_config(SMALL).sample.replace(steps=steps, key_steps=key_steps, decode_batch=decode_batch)
    return Sampling.of(settings, schedule)


def lines_of(sampling, seconds_a_step, at_once, chains=1):
    """What is said of chains whose steps are computed so many at once, and told one after the other."""
    now, said = 0.0, []
    progress = ChainProgress(sampling, said.append, clock=lambda: now, chains=chains)
    for order in [*range(sampling.executed.steps)] * chains:
        if order % at_once == 0:
            now += at_once * seconds_a_step
        progress(order, 0, None, None)
    return said


@pytest.mark.parametrize(("seconds_a_step", "lines"), [(0.5, 0), (1, 5), (30, 99)])
def test_a_chain_of_more_than_a_minute_says_how_long_it_takes(seconds_a_step, lines):
    said = lines_of(chain(100, "none"), seconds_a_step, at_once=1)
    assert len(said) == lines
    if lines:
        assert said[0] == f"step 1 of 100, about {99 * seconds_a_step / 60:.1f} min left"


def test_chains_that_follow_one_another_are_one_work():
    """The two stages of a large magnification, or an image and its mirror image."""
    said = lines_of(chain(50, "none"), 30, at_once=1, chains=2)
    assert [line.split(",")[0] for line in said] == [f"step {n} of 100" for n in range(1, 100)]
    assert said[49] == f"step 50 of 100, about {50 * 30 / 60:.1f} min left"


@pytest.mark.parametrize(("device", "chains", "is_told"), [("cuda", 1, False), ("cuda", 2, True), ("cpu", 1, True)])
def test_short_work_of_a_gpu_is_not_told(device, chains, is_told):
    shape = (1, 1, LARGE // 8)  # four steps of it are half of LARGE
    assert bool(progress_of_chain(chain(4, "none"), shape, torch.device(device), print, chains)) == is_told


def test_a_chain_that_is_sampled_again_is_not_counted_twice():
    """In float32, after an overflow."""
    count = StepCount(chain(4, "none"), 1)
    assert [count.done(order) for order in (0, 1, 2, 3, 0, 3)] == [1, 2, 3, 4, 1, 4]


@pytest.mark.parametrize(("decode_batch", "at_once"), [(None, 10), (5, 5)])
def test_steps_that_are_decoded_together_count_together(decode_batch, at_once):
    """The time of ten steps is not taken for that of the first of them."""
    said = lines_of(chain(100, "uniform:10", decode_batch), 1, at_once)
    assert said[0] == f"step {at_once} of 100, about {(100 - at_once) / 60:.1f} min left"
    assert not lines_of(chain(100, "uniform:10", decode_batch), 0.5, at_once)


def test_duration():
    assert (duration(2), duration(90), duration(5400)) == ("0.1 min", "1.5 min", "1.5 h")
