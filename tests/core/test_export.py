"""Export: what ships is the network, smaller."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from core.checkpoint import (
    TrainingState,
    load_network,
    read_network_file,
    save_checkpoint,
    save_encoder_change,
    step_of,
)
from core.config import PRESETS, check_config
from core.export import main
from model.key_steps import EncoderChange
from tests.core.conftest import SMALL


@pytest.fixture
def sparse_checkpoint(small_network, tmp_path):
    """(prefix, weights, masks) of a checkpoint in which a third of each convolution and linear weight is active."""
    generator = torch.Generator().manual_seed(0)
    prunable = small_network.prunable_parameters()
    masks = {name: torch.rand(weight.shape, generator=generator) < 1 / 3 for name, weight in prunable.items()}
    weights = {n: w * masks[n] if n in masks else w.clone() for n, w in small_network.state_dict().items()}
    prefix = tmp_path / "run" / "I70_E2"
    save_checkpoint(prefix, check_config(SMALL), TrainingState(weights, weights, masks, step=70))
    return prefix, weights, masks


def export(*arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize(("values", "bits"), [("fp16", 11), ("bf16", 8), ("float32", 24)])
def test_the_network_is_the_same_but_for_rounding(sparse_checkpoint, tmp_path, values, bits):
    prefix, weights, masks = sparse_checkpoint
    assert not export("-r", prefix, "-o", tmp_path / "new" / "x.safetensors", "--values", values)
    shipped = read_network_file(tmp_path / "new" / "x.safetensors")
    assert shipped.masks.keys() == masks.keys()
    for name, mask in masks.items():
        assert torch.equal(shipped.masks[name], mask)
    for name, weight in weights.items():
        error = (shipped.weights[name].float() - weight).abs()
        limit = weight.abs() * 2.0**-bits + 2**-25 if weight.dim() > 1 else torch.zeros_like(weight)
        assert (error <= limit).all(), name  # half a unit in the last place; 2⁻²⁵ below fp16's least normal number
    network, config = load_network(tmp_path / "new" / "x.safetensors")
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert step_of(tmp_path / "new" / "x.safetensors") == 70
    assert config["name"] == "small"


def test_size(sparse_checkpoint, tmp_path, capsys):
    """Two bytes for each active value, one bit for each weight, and what no mask covers in float32."""
    prefix, weights, masks = sparse_checkpoint
    export("-r", prefix, "-o", tmp_path / "x.safetensors")
    active = sum(int(mask.sum()) for mask in masks.values())
    content = 2 * active + sum(-(-mask.numel() // 8) + 8 * mask.dim() for mask in masks.values())
    content += sum(w.numel() * (4 if w.dim() < 2 else 2) for name, w in weights.items() if name not in masks)
    file = (tmp_path / "x.safetensors").read_bytes()
    header = int.from_bytes(file[:8], "little")
    assert len(file) - header - 8 == content
    vectors = sum(w.numel() for name, w in weights.items() if name not in masks)
    assert f"{active + vectors:,} of them active" in capsys.readouterr().out


def test_what_was_measured_and_the_preset_are_in_it(sparse_checkpoint, small_network, tmp_path):
    prefix, *_ = sparse_checkpoint
    file = f"{prefix}_gen.safetensors"
    network, config = load_network(prefix)
    distance = torch.tensor([[0.0, 0.25], [0.25, 0.0]])
    network.encoder_change = EncoderChange((19, 4), distance)
    save_encoder_change(file, network, config, file)
    assert not export("-r", file, "-o", tmp_path / "x.safetensors", "--preset", "fast")
    shipped = read_network_file(tmp_path / "x.safetensors")
    assert shipped.encoder_change.timesteps == (19, 4)
    assert np.array_equal(shipped.encoder_change.distance, distance)
    for key, value in PRESETS["fast"].items():
        assert shipped.config["sample"][key] == value


def test_refusals(sparse_checkpoint, tmp_path, capsys):
    prefix, weights, masks = sparse_checkpoint
    assert export("-r", prefix, "-o", tmp_path / "x.pth") == 2
    assert export("-r", tmp_path / "gone", "-o", tmp_path / "x.safetensors") == 2
    name = next(name for name in masks if masks[name].any())
    weights[name][tuple(masks[name].nonzero()[0])] = 1e6
    save_checkpoint(prefix, check_config(SMALL), TrainingState(weights, weights, masks, step=70))
    assert export("-r", prefix, "-o", tmp_path / "x.safetensors") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and name in errors[2] and "--values float32" in errors[2]
    assert not list(tmp_path.glob("x.*"))


def test_as_a_program(pytestconfig):
    command = [sys.executable, "-m", "core.export", "--help"]
    done = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "fp16" in done.stdout
