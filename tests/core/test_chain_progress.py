"""What a long chain says of its time."""

import pytest

from core.chain_progress import ChainProgress, duration


@pytest.mark.parametrize(("seconds_a_step", "lines"), [(0.5, 0), (1, 5), (30, 99)])
def test_a_chain_of_more_than_a_minute_says_how_long_it_takes(seconds_a_step, lines):
    now, said = 0.0, []
    progress = ChainProgress(100, said.append, clock=lambda: now)
    for order in range(100):
        now += seconds_a_step
        progress(order, 0, None, None)
    assert len(said) == lines
    if lines:
        assert said[0] == f"step 1 of 100, about {99 * seconds_a_step / 60:.1f} min left"


def test_duration():
    assert (duration(2), duration(90), duration(5400)) == ("0.1 min", "1.5 min", "1.5 h")
