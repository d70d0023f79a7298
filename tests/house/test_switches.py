"""A test finds the process as the first one did, whatever tests before it switched."""

import os

import pytest
import torch

from core.device import compute_deterministically, pick_device, show_gpus

MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn


def found():
    arithmetic = MATMUL.allow_tf32, CUDNN.allow_tf32, CUDNN.benchmark, torch.get_default_dtype()
    kind = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return *arithmetic, *kind, torch.get_num_threads(), torch.is_grad_enabled(), dict(os.environ)


@pytest.fixture(scope="module")
def first():
    """What the first test here found, after a fixture of wider scope has switched something."""
    pick_device("cpu")
    return {}


@pytest.mark.parametrize("time", ["first", "second"])
def test_what_a_test_switches_is_put_back(first, time):
    now = found()
    now[-1].pop("PYTEST_CURRENT_TEST")
    assert now == first.setdefault("found", now)
    assert not MATMUL.allow_tf32  # torch's own choice
    pick_device("cpu")
    compute_deterministically()
    show_gpus("7")
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    CUDNN.benchmark = not CUDNN.benchmark
    os.environ.pop("PATH")
    after = found()
    assert not [a for a, b in zip(after[2:], now[2:], strict=True) if a == b] and MATMUL.allow_tf32
