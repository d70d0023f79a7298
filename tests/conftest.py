"""What every test shares: the skip of GPU tests where there is no GPU, and the same arithmetic whatever ran before."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)


def switches():
    """{what sets a switch of this process: its value}, of those that change what torch computes, and how."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return {
        partial(setattr, matmul, "allow_tf32"): matmul.allow_tf32,
        partial(setattr, cudnn, "allow_tf32"): cudnn.allow_tf32,
        partial(setattr, cudnn, "benchmark"): cudnn.benchmark,
        partial(torch.use_deterministic_algorithms, warn_only=warn_only): torch.are_deterministic_algorithms_enabled(),
        torch.set_default_dtype: torch.get_default_dtype(),
        torch.set_num_threads: torch.get_num_threads(),
        torch.set_grad_enabled: torch.is_grad_enabled(),
    }


AT_THE_START = switches()


def put_back():
    for (put, value), now in zip(AT_THE_START.items(), switches().values(), strict=True):
        if now != value:
            put(value)


@pytest.fixture(autouse=True)
def switches_put_back():
    """What a test, or `pick_device` in it, switches for the whole process, or sets in its environment, no other test
    finds. Before a test too: fixtures of the session may have switched something."""
    put_back()
    variables = dict(os.environ)
    yield
    put_back()
    for name in os.environ.keys() - variables.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update({name: value for name, value in variables.items() if name != "PYTEST_CURRENT_TEST"})


@pytest.fixture
def exact_float32(switches_put_back):
    """Float32 arithmetic on a GPU that is not shortened to TF32, until the test calls `pick_device`."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="session")
def golden():
    """The folder of tensors recorded from the published code."""
    return GOLDEN
