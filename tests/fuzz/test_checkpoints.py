"""Damaged and hostile checkpoints: each is read, or refused in one line, soon, in bounded memory, and runs nothing."""

import copy
import json
import random

import pytest
import torch
from safetensors.torch import load_file, save

from core.checkpoint.files import TrainingState, load_checkpoint, load_training_state, save_checkpoint
from core.checkpoint.network_file import NetworkState, save_network
from core.config import check_config
from model import build_network
from sparse.contents import format_table, read_tensors, tabulate
from tests.core.conftest import SMALL
from tests.fuzz.hostile import VALUES, answers, bounded_memory, count, damaged_bytes, damaged_value, nested

MISNAMED = ("x", "", "encoder/x", "encoder_change/distance", "encoder.input.weight::int8", "é" * 300)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """{kind: the bytes of the network file, and of the training file}: plain, packed and compressed."""
    folder = tmp_path_factory.mktemp("whole")
    config = check_config(SMALL)
    torch.manual_seed(0)
    weights = build_network(config.model).state_dict()
    masks = {name: torch.rand(value.shape) < 0.15 for name, value in weights.items() if value.ndim == 4}
    moments = {
        name: {"step": torch.tensor(3.0), "exp_avg": torch.ones(value.shape), "exp_avg_sq": torch.ones(value.shape)}
        for name, value in weights.items()
    }
    counters = {"start": 0, "updates": 1, "seed": 0}
    save_checkpoint(folder / "I3_E1", config, TrainingState(weights, weights, masks, 3, counters, {}, moments))
    save_checkpoint(folder / "I4_E1", config, TrainingState(weights, weights, step=4, optimizer=moments))
    for masked, name in ((masks, "I5_E1"), ({}, "I6_E1")):
        dtypes = dict.fromkeys(weights, torch.int8)
        save_network(
            folder / f"{name}_gen.safetensors", NetworkState(weights, masked, config), 5, dtypes, compressed=True
        )
    files = {name: [folder / f"{name}_{kind}.safetensors" for kind in ("gen", "opt")] for name in ("I3_E1", "I4_E1")}
    files |= {name: [folder / f"{name}_gen.safetensors"] for name in ("I5_E1", "I6_E1")}
    return {name: [file.read_bytes() for file in found] for name, found in files.items()}


def split(content):
    """A safetensors file -> (header as JSON, the rest)."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(header, rest):
    text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + rest


def damaged_header(content, rng):
    header, rest = split(content)
    return joined(damaged_value(header, rng), rest)


def damaged_metadata(content, rng):
    """Its JSON texts, changed inside or replaced."""
    header, rest = split(content)
    metadata = header["__metadata__"]
    key = rng.choice([key for key in ("config", "training", "config", "training", "step") if key in metadata])
    kind = rng.random()
    if kind < 0.8 and key != "step":
        metadata[key] = json.dumps(damaged_value(json.loads(metadata[key]), rng))
    elif kind < 0.9:
        texts = [
            "",
            "{",
            "null",
            "[]",
            "9" * 10_000,
            nested(100_000),
            nested(100_000, '{"a":', "}"),
            '{"a":1,"a":2}',
            "-1",
        ]
        metadata[key] = rng.choice([*texts, *map(str, VALUES)])
    else:
        del metadata[key]
    return joined(header, rest)


def damaged_tensors(content, rng, folder):
    """One tensor left out, renamed, of another type, shape or value."""
    (file := folder / "whole.safetensors").write_bytes(content)
    metadata = split(content)[0]["__metadata__"]
    tensors = load_file(file)
    name = rng.choice(list(tensors))
    tensor = tensors.pop(name)
    kind = rng.randrange(6)
    if kind == 1:
        tensors[rng.choice(MISNAMED)] = tensor
    elif kind == 2:
        types = (torch.int64, torch.bool, torch.float64, torch.uint8, torch.int8, torch.complex64, torch.float8_e4m3fn)
        tensors[name] = tensor.float().to(rng.choice(types))
    elif kind == 3:
        shapes = ((0,), (), (1,), (tensor.numel(),), (1, *tensor.shape), (3, 3), (0, 5))
        shape = rng.choice(shapes)
        tensors[name] = torch.zeros(() if 0 in shape else shape, dtype=tensor.dtype)
        if 0 in shape:
            tensors[name] = tensors[name].new_zeros(0).view(shape)
    elif kind == 4:
        value = rng.choice([2**40, -1, 2**62, 0, 1, 255])
        fill = torch.tensor(float("nan") if tensor.is_floating_point() else value).to(tensor.dtype)
        tensors[name] = fill.expand(tensor.shape).clone()
    elif kind == 5:
        tensors[f"{name}::{rng.choice(['mask', 'values', 'shape', 'int8', 'active', 'float32'])}"] = tensor
    return save(tensors, metadata)


def damage(content, rng, folder):
    kind = rng.random()
    if kind < 0.4:
        return damaged_metadata(content, rng)
    if kind < 0.6:
        return damaged_bytes(content, rng)
    return damaged_header(content, rng) if kind < 0.8 else damaged_tensors(content, rng, folder)


@pytest.mark.slow
def test_network_files(whole, tmp_path):
    (file := tmp_path / "I3_E1_gen.safetensors").touch()
    with bounded_memory():
        for seed in range(count(150, 4000)):
            rng = random.Random(seed)
            file.write_bytes(damage(rng.choice(list(whole.values()))[0], rng, tmp_path))
            with answers(f"network file {seed}"):
                load_checkpoint(file)
            with answers(f"table of network file {seed}"):
                format_table(tabulate(read_tensors(file)))


@pytest.mark.slow
def test_training_files(whole, tmp_path):
    pairs = [pair for pair in whole.values() if len(pair) == 2]
    config = check_config(copy.deepcopy(SMALL))
    with bounded_memory():
        for seed in range(count(60, 1000)):
            rng = random.Random(seed)
            network, training = rng.choice(pairs)
            (tmp_path / "I3_E1_gen.safetensors").write_bytes(network)
            (tmp_path / "I3_E1_opt.safetensors").write_bytes(damage(training, rng, tmp_path))
            with answers(f"training file {seed}"):
                load_training_state(tmp_path / "I3_E1", config)
