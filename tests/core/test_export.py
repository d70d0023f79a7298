"""Export: what ships is the network, smaller."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.checkpoint.files import (
    TrainingState,
    load_checkpoint,
    load_network,
    load_training_state,
    save_checkpoint,
    save_encoder_change,
    step_of,
)
from core.checkpoint.network_file import NetworkState, read_network_file, save_network, sensitive
from core.checkpoint.tensor_files import read_safetensors, write_safetensors
from core.config import PRESETS, changed, check_config
from core.errors import UserError
from core.export import main
from core.inference import upscale
from model.sampling.key_steps import EncoderChange
from sparse.inspect import main as inspect
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


@pytest.mark.parametrize(("values", "bits"), [("int8", 11), ("fp16", 11), ("bf16", 8), ("float32", 24)])
def test_the_network_is_the_same_but_for_rounding(sparse_checkpoint, tmp_path, values, bits):
    prefix, weights, masks = sparse_checkpoint
    assert not export("-r", prefix, "-o", tmp_path / "new" / "x.safetensors", "--values", values)
    shipped = read_network_file(tmp_path / "new" / "x.safetensors")
    assert shipped.masks.keys() == masks.keys()
    for name, mask in masks.items():
        assert torch.equal(shipped.masks[name], mask)
    for name, weight in weights.items():
        if weight.dim() < 2:
            limit = torch.zeros_like(weight)
        elif values == "int8" and name not in sensitive(
            weights
        ):  # half a step, of which 126.5 or more are the largest value of a channel
            limit = weight.flatten(1).abs().amax(dim=1).view(-1, *[1] * (weight.dim() - 1)) / 126.5 / 2
        else:
            limit = (
                weight.abs() * 2.0**-bits + 2**-25
            )  # half a unit in the last place; below fp16's least normal number
        assert ((shipped.weights[name] - weight).abs() <= limit).all(), name
    network, config = load_network(tmp_path / "new" / "x.safetensors")
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert step_of(tmp_path / "new" / "x.safetensors") == 70
    assert config["name"] == "small"


def test_size(sparse_checkpoint, tmp_path, capsys):
    """A byte for each active value, 0.918 bits for each weight (the entropy of a third), and vectors in float32."""
    prefix, weights, masks = sparse_checkpoint
    export("-r", prefix, "-o", tmp_path / "x.safetensors")
    n_active = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    vectors = sum(w.numel() for name, w in weights.items() if name not in masks)
    file = (tmp_path / "x.safetensors").read_bytes()
    header = int.from_bytes(file[:8], "little")
    channels = sum(len(mask) for mask in masks.values())
    values = n_active + sum(int(masks[name].sum()) for name in sensitive(weights))
    codes = 300 * len(masks)  # tables of Huffman codes
    assert len(file) - header - 8 < values + 0.93 * total / 8 + 2 * channels + codes + 4 * vectors
    assert f"{n_active + vectors:,} of them active" in capsys.readouterr().out


def test_a_dense_network_is_small_too(small_network, tmp_path):
    weights = small_network.state_dict()
    save_checkpoint(tmp_path / "I1_E1", check_config(SMALL), TrainingState(weights, weights))
    assert not export("-r", tmp_path / "I1_E1", "-o", tmp_path / "x.safetensors")
    shipped = read_network_file(tmp_path / "x.safetensors")
    assert not shipped.masks and shipped.weights.keys() == weights.keys()
    assert (tmp_path / "x.safetensors").stat().st_size < 0.6 * (tmp_path / "I1_E1_gen.safetensors").stat().st_size


def test_sensitive_weights_are_those_of_the_network(small_network):
    finest = len(small_network.decoder.levels) - 1
    blocks = range(1, len(small_network.decoder.levels[finest]))
    near_the_image = {f"decoder.levels.{finest}.{block}.shortcut.weight" for block in blocks}
    ends = {"embedding.expand", "encoder.input", "decoder.output", "lr_encoder.head", "lr_encoder.tail"}
    expected = near_the_image | {f"{name}.weight" for name in ends}
    assert blocks and set(sensitive(small_network.prunable_parameters())) == expected


def test_exporting_again_changes_nothing(sparse_checkpoint, tmp_path):
    prefix, *_ = sparse_checkpoint
    export("-r", prefix, "-o", tmp_path / "x.safetensors")
    export("-r", tmp_path / "x.safetensors", "-o", tmp_path / "again.safetensors")
    first, second = (read_safetensors(tmp_path / f"{name}.safetensors") for name in ("x", "again"))
    assert second[1] == first[1] and second[0].keys() == first[0].keys()
    assert all(torch.equal(tensor, first[0][key]) for key, tensor in second[0].items())


def test_a_measurement_leaves_the_rest_as_it_is_packed(sparse_checkpoint, tmp_path):
    prefix, *_ = sparse_checkpoint
    file = tmp_path / "x.safetensors"
    export("-r", prefix, "-o", file)
    before = load_file(file)
    change = EncoderChange((19, 4), torch.tensor([[0.0, 0.25], [0.25, 0.0]]))
    save_encoder_change(file, replace(load_checkpoint(file), encoder_change=change), file)
    after = load_file(file)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert {key.partition("/")[0] for key in after.keys() - before.keys()} == {"encoder_change"}


def test_training_continues_from_it(sparse_checkpoint, tmp_path):
    prefix, _, masks = sparse_checkpoint
    export("-r", prefix, "-o", tmp_path / "x.safetensors")
    network, config = load_network(tmp_path / "x.safetensors")
    state = load_training_state(tmp_path / "x.safetensors", config)
    assert (state.step, state.optimizer) == (0, {})
    assert all(torch.equal(state.masks[name], mask) for name, mask in masks.items())
    assert all(torch.equal(state.weights[name], weight) for name, weight in network.state_dict().items())


def test_inspect_shows_it(sparse_checkpoint, tmp_path, capsys):
    prefix, _, masks = sparse_checkpoint
    export("-r", prefix, "-o", tmp_path / "x.safetensors")
    capsys.readouterr()
    assert inspect([str(tmp_path / "x.safetensors")]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for name, mask in masks.items():
        stored = load_file(tmp_path / "x.safetensors")
        n_bytes = sum(entry.nbytes for key, entry in stored.items() if key.startswith(f"{name}::"))
        assert lines[name].split()[2:] == [
            f"{mask.sum():,}", f"{mask.numel():,}", f"{mask.sum() / mask.numel():.4f}", f"{n_bytes:,}"
        ]  # fmt: skip


def test_damage_is_one_line(sparse_checkpoint, tmp_path, capsys):
    prefix, _, masks = sparse_checkpoint
    whole = tmp_path / "whole.safetensors"
    export("-r", prefix, "-o", whole)
    (tensors, metadata), name = read_safetensors(whole), "lr_encoder.body_end.weight"
    blob = tensors[f"{name}::int8"]
    flipped = blob.clone()
    flipped[len(blob) // 2] ^= 16
    another = next(n for n, mask in masks.items() if mask.numel() > 3 * masks[name].numel())
    damages = {
        "cut": {f"{name}::int8": blob[:-7].clone()},
        "flipped": {f"{name}::int8": flipped},
        "another": {f"{name}::{kind}": tensors[f"{another}::{kind}"].clone() for kind in ("int8", "active")},
        "more": {"more::int8": blob.clone()},
    }
    capsys.readouterr()
    for damage, entries in damages.items():
        write_safetensors(tmp_path / f"{damage}.safetensors", tensors | entries, metadata)
        assert export("-r", tmp_path / f"{damage}.safetensors", "-o", tmp_path / "x.safetensors") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {tmp_path / damage}.safetensors: damaged: packed tensor "), error
        assert len(error.splitlines()) == 1
    (tmp_path / "half.safetensors").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert export("-r", tmp_path / "half.safetensors", "-o", tmp_path / "x.safetensors") == 2
    assert "truncated" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


def test_what_was_measured_and_the_preset_are_in_it(sparse_checkpoint, small_network, tmp_path):
    prefix, *_ = sparse_checkpoint
    file = f"{prefix}_gen.safetensors"
    distance = torch.tensor([[0.0, 0.25], [0.25, 0.0]])
    save_encoder_change(file, replace(load_checkpoint(prefix), encoder_change=EncoderChange((19, 4), distance)), file)
    assert not export("-r", file, "-o", tmp_path / "x.safetensors", "--preset", "fast")
    shipped = read_network_file(tmp_path / "x.safetensors")
    assert shipped.encoder_change.timesteps == (19, 4)
    assert np.array_equal(shipped.encoder_change.distance, distance)
    for key, value in PRESETS["fast"].items():
        assert shipped.config["sample"][key] == value


def test_a_student_keeps_the_chain_that_it_was_taught(sparse_checkpoint, tmp_path, capsys):
    prefix, weights, masks = sparse_checkpoint
    taught = {"solver": "ddim", "steps": 1, "key_steps": "none", "start": 0.9, "consistency": 1}
    config = changed(check_config(SMALL), {"sample": taught}).to_dict() | {"phase": "distill"}
    save_checkpoint(prefix, check_config(config), TrainingState(weights, weights, masks, step=70))
    target = tmp_path / "x.safetensors"
    assert export("-r", prefix, "-o", target, "--preset", "fast") == 2 and not target.exists()
    assert "use instant or mirrored" in capsys.readouterr().err
    for preset in ("mirrored", "instant"):
        assert not export("-r", target if target.exists() else prefix, "-o", target, "--preset", preset)
        sample = read_network_file(target).config.sample
        assert taught.items() <= sample.to_dict().items() and sample.mirrored == (preset == "mirrored")


def test_what_is_not_finite_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"x\.safetensors is not written: a has values that are not finite"):
        write_safetensors(tmp_path / "new" / "x.safetensors", {"a": torch.tensor([1.0, float("inf")])}, {})
    assert not (tmp_path / "new").exists()


def test_refusals(sparse_checkpoint, tmp_path, capsys):
    prefix, weights, masks = sparse_checkpoint
    assert export("-r", prefix, "-o", tmp_path / "x.pth") == 2
    assert export("-r", tmp_path / "gone", "-o", tmp_path / "x.safetensors") == 2
    name = next(name for name in masks if masks[name].any())
    weights[name][tuple(masks[name].nonzero()[0])] = 1e6
    save_checkpoint(prefix, check_config(SMALL), TrainingState(weights, weights, masks, step=70))
    assert export("-r", prefix, "-o", tmp_path / "x.safetensors", "--values", "fp16") == 2
    tensors, metadata = read_safetensors(Path(f"{prefix}_gen.safetensors"))
    tensors[f"{name}::values"][0] = float("nan")
    save_file(tensors, f"{prefix}_gen.safetensors", metadata)
    assert export("-r", prefix, "-o", tmp_path / "x.safetensors") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4 and name in errors[2] and "--values float32" in errors[2]
    assert name in errors[3] and "not finite" in errors[3]
    assert not list(tmp_path.glob("x.*"))


@pytest.fixture
def two_networks(sparse_checkpoint, tmp_path):
    """The prefixes, weights and masks of `sparse_checkpoint` and of another network with its masks."""
    prefix, weights, masks = sparse_checkpoint
    generator = torch.Generator().manual_seed(1)
    other = {name: w + torch.randn(w.shape, generator=generator) for name, w in weights.items()}
    other = {name: w * masks[name] if name in masks else w for name, w in other.items()}
    state = TrainingState(other, other, masks, step=9)
    save_checkpoint(tmp_path / "other" / "I9_E1", changed(check_config(SMALL), {"name": "other"}), state)
    return (prefix, tmp_path / "other" / "I9_E1"), (weights, other), masks


@pytest.mark.parametrize(("given", "share"), [((), 0.5), (("--weights", 3, 1), 0.75), (("--weights", 1, 9), 0.1)])
def test_mean_of_two_networks(two_networks, tmp_path, given, share):
    (first, second), (weights, other), masks = two_networks
    file = tmp_path / "x.safetensors"
    assert not export("-r", first, second.parent, "-o", file, "--values", "float32", *given)  # a prefix, a folder
    mean = read_network_file(file)
    assert mean.weights.keys() == weights.keys() and mean.masks.keys() == masks.keys()
    for name, value in mean.weights.items():
        expected = share * weights[name].numpy().astype(float) + (1 - share) * other[name].numpy().astype(float)
        np.testing.assert_array_max_ulp(value.numpy(), np.float32(expected), maxulp=1)
    for name, mask in masks.items():
        assert torch.equal(mean.masks[name], mask) and not mean.weights[name][~mask].any()
    assert (step_of(file), mean.config["name"]) == (70, "small")


def test_mean_of_many_files(two_networks, tmp_path):
    """-r more than once, a file counted twice, and a network with itself, of which nothing changes."""
    (first, second), (weights, other), _ = two_networks
    options = "-o", tmp_path / "x.safetensors", "--values", "float32"
    assert not export("-r", first, "-r", f"{second}_gen.safetensors", first, *options)
    for name, value in read_network_file(tmp_path / "x.safetensors").weights.items():
        assert torch.allclose(value, (2 * weights[name] + other[name]) / 3, atol=1e-6), name
    assert not export("-r", first, first, first, *options)
    for name, value in read_network_file(tmp_path / "x.safetensors").weights.items():
        assert torch.equal(value, weights[name]), name


def test_the_mean_samples(two_networks, tmp_path, make_image):
    (first, second), *_ = two_networks
    assert not export("-r", first, second, "-o", tmp_path / "x.safetensors")
    [result] = upscale(make_image(8, 8), tmp_path / "x.safetensors", device="cpu")
    assert result.size == (32, 32) and np.asarray(result).std() > 0


def test_one_checkpoint_is_not_averaged(sparse_checkpoint, tmp_path, monkeypatch):
    """It is what packing the checkpoint itself gives, to the byte."""
    prefix, weights, masks = sparse_checkpoint
    monkeypatch.setattr("core.checkpoint.averaging.average", None)
    assert not export("-r", prefix, "-o", tmp_path / "x.safetensors", "--values", "bf16")
    state = NetworkState(weights, masks, check_config(SMALL))
    dtypes = dict.fromkeys(weights, torch.bfloat16)
    save_network(tmp_path / "expected.safetensors", state, 70, dtypes, compressed=True)
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "expected.safetensors").read_bytes()


@pytest.mark.parametrize("measured", [0, 1])
def test_what_was_measured_is_not_in_the_mean(two_networks, tmp_path, capsys, measured):
    prefixes, *_ = two_networks
    options = "-r", *prefixes, "-o", tmp_path / "x.safetensors"
    assert not export(*options) and "calibrat" not in capsys.readouterr().out
    file = f"{prefixes[measured]}_gen.safetensors"
    change = EncoderChange((19, 4), torch.tensor([[0.0, 0.25], [0.25, 0.0]]))
    save_encoder_change(file, replace(load_checkpoint(file), encoder_change=change), file)
    assert not export(*options)
    assert read_network_file(tmp_path / "x.safetensors").encoder_change is None
    assert f"python -m core.calibrate -r {tmp_path / 'x.safetensors'}" in capsys.readouterr().out


def test_other_networks_are_not_averaged(two_networks, tmp_path, capsys):
    (first, second), (weights, _), masks = two_networks
    name, another = sorted(masks)[:2]
    moved = {n: mask.clone() for n, mask in masks.items()}
    moved[name].view(-1)[:5] ^= True
    twice = moved | {another: ~masks[another]}
    config = check_config(SMALL)
    predicts = changed(config, {"model.diffusion.prediction": "epsilon"})
    longer = changed(config, {"model.beta_schedule.val.n_timestep": 30})
    harmless = changed(config, {"model.unet.dropout": 0.5, "sample.steps": 2})
    size = masks[name].numel()
    cases = [
        (config, moved, f"its mask of {name} differs", f"in 5 of {size:,} weights; "),
        (config, twice, f"its mask of {name} differs", f"in 5 of {size:,} weights, and 1 more of its masks differ; "),
        (config, {n: m for n, m in masks.items() if n != name}, f"its mask of {name} differs",
         f"in {size - int(masks[name].sum()):,} of {size:,} weights; "),
        (predicts, masks, "model.diffusion.prediction = 'epsilon'", "has 'v'"),
        (longer, masks, "model.beta_schedule.val.n_timestep = 30", "has 20"),
        (harmless, masks),
    ]  # fmt: skip
    for other_config, other_masks, *told in cases:
        save_checkpoint(second, other_config, TrainingState(weights, weights, other_masks))
        assert export("-r", first, second, "-o", tmp_path / "x.safetensors") == (2 if told else None)
        error = capsys.readouterr().err
        assert len(error.splitlines()) == bool(told)
        for words in (f"{first}_gen.safetensors", f"{second}_gen.safetensors", *told) if told else ():
            assert words in error
        assert (tmp_path / "x.safetensors").exists() == (not told)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("A B --weights 1", "--weights 1: -r names 2 checkpoints"),
        ("A B --weights 1 2 3", "--weights 1 2 3: -r names 2 checkpoints"),
        ("A B --weights 1 0", "--weights 1 0: each must be a positive number"),
        ("A B --weights -1 2", "--weights -1 2: each must be a positive number"),
        ("A B --weights nan 1", "--weights nan 1: each must be a positive number"),
        ("A B --weights 1e308 1e308", "--weights 1e+308 1e+308: each must be a positive number"),
        ("A B --weights half 1", "--weights: invalid float value: 'half'"),
        ("A --weights 1", "--weights is for several checkpoints"),
        ("A gone", "gone: no such checkpoint"),
    ],
)
def test_refusals_of_a_mean(two_networks, tmp_path, capsys, given, told):
    prefixes = dict(zip("AB", two_networks[0], strict=True))
    words = [prefixes.get(word, word) for word in given.split()]
    assert export("-o", tmp_path / "x.safetensors", "-r", *words) == 2
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) == 1
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.slow
def test_as_a_program(pytestconfig):
    command = [sys.executable, "-m", "core.export", "--help"]
    done = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "int8" in done.stdout
