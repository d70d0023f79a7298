"""Damaged and hostile .pth files: each is read, or refused in one line, soon, in bounded memory."""

import copy
import io
import random

import pytest
import torch

from core.checkpoint.files import load_checkpoint, load_training_state
from sparse.contents import format_table, read_tensors, tabulate
from tests.fuzz.hostile import VALUES, answers, bounded_memory, count, damaged_bytes

TENSORS = [
    lambda: torch.zeros(1).expand(10**9),
    lambda: torch.zeros(10**3).expand(10**6, 10**3),
    lambda: torch.tensor(1),
    lambda: torch.zeros(0),
    lambda: torch.eye(3).to_sparse(),
    lambda: torch.zeros(3, device="meta"),
    lambda: torch.zeros(3, 3, 3, 3, dtype=torch.int64),
    lambda: torch.full((8, 8, 3, 3), float("nan")),
    lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
    lambda: bytearray(100),
]


def saved(value, **options):
    torch.save(value, buffer := io.BytesIO(), **options)
    return buffer.getvalue()


def damaged_object(state, rng):
    state = copy.copy(state)
    key = rng.choice(list(state))
    kind = rng.randrange(5)
    value = state.pop(key)
    if kind == 1:
        state[rng.choice(("", "x", "module." + key, key + ".0", 7, None))] = value
    elif kind == 2:
        state[key] = rng.choice(TENSORS)()
    elif kind == 3:
        state[key] = rng.choice(VALUES)
    elif kind == 4 and isinstance(value, torch.Tensor):
        state[key] = value.flatten()[: rng.choice((0, 1, 7))]
    return state if rng.random() < 0.95 else rng.choice(([], None, 3, "x", {}, {"params_ema": state}))


@pytest.mark.slow
def test_published_files(tiny_published, tmp_path):
    network, training = tiny_published
    torch.save(network, tmp_path / "whole_gen.pth")
    assert load_checkpoint(tmp_path / "whole").config.model.unet.inner_channel == 32  # what is damaged is right
    (file := tmp_path / "I3_E1_gen.pth").touch()
    opt = tmp_path / "I3_E1_opt.pth"
    with bounded_memory():
        for seed in range(count(60, 1000)):
            rng = random.Random(seed)
            options = {"_use_new_zipfile_serialization": rng.random() < 0.8}
            is_training = rng.random() < 0.3
            value = training if is_training else network
            if rng.random() < 0.5:
                try:
                    content = saved(damaged_object(value, rng), **options)
                except (RuntimeError, NotImplementedError):
                    continue  # the old format has no such tensors
            else:
                content = damaged_bytes(saved(value, **options), rng)
            file.write_bytes(saved(network) if is_training else content)
            opt.write_bytes(content if is_training else saved(training))
            with answers(f"published file {seed}"):
                load_training_state(file, None)
                load_checkpoint(file)
            with answers(f"table of published file {seed}"):
                format_table(tabulate(read_tensors(file)))
