"""Checkpoints: what goes in comes out, whatever is wrong is said in one line, and published files are read."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from core.checkpoint.files import (
    CheckpointFiles,
    TrainingState,
    find_checkpoint,
    load_network,
    load_training_state,
    save_checkpoint,
)
from core.config import changed, check_config
from core.errors import UserError
from core.shipped import FILES
from data import DataError
from model import ModelError, build_network
from sparse.contents import read_tensors


def random_masks(network, density=0.15):
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(weight.shape, generator=generator) < density
        for name, weight in network.prunable_parameters().items()
    }


def test_sparse_checkpoint_round_trip(small_config, tmp_path):
    network = build_network(small_config["model"])
    masks = random_masks(network)
    weights = {name: tensor * masks.get(name, 1) for name, tensor in network.state_dict().items()}
    ema = {name: tensor * 0.5 for name, tensor in weights.items()}
    moments = {name: {"step": torch.tensor(3.0), "exp_avg": torch.randn_like(weights[name])} for name in weights}
    head = torch.nn.Linear(2, 3).state_dict()
    moments["head/weight"] = {"exp_avg": torch.randn(3, 2)}
    counters = {"start": 2, "updates": 1, "seed": 5}
    saved = TrainingState(weights, ema, masks, 3, counters, modules={"head": head}, optimizer=moments)
    save_checkpoint(tmp_path / "I3_E1", small_config, saved)

    loaded, config = load_network(tmp_path / "I3_E1")
    assert config == small_config
    assert all(torch.equal(tensor, ema[name]) for name, tensor in loaded.state_dict().items())
    assert not loaded.training
    state = load_training_state(tmp_path / "I3_E1", small_config)
    assert (state.step, state.masker) == (3, counters)
    assert state.modules.keys() == {"head"} and all(torch.equal(state.modules["head"][key], head[key]) for key in head)
    assert all(torch.equal(state.weights[name], weights[name]) for name in weights)
    assert all(torch.equal(state.masks[name], masks[name]) for name in masks)
    assert all(torch.equal(state.optimizer[n][k], t) for n, kept in moments.items() for k, t in kept.items())
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".") or file.suffix == ".tmp"]


def test_packed_file_is_a_fifth_of_the_dense(golden, tmp_path):
    """At 15 % density, on the smallest network whose weights, like those of the real ones, are mostly convolutions."""
    model = {
        "unet": {"inner_channel": 64, "channel_multiplier": [1, 2], "attn_res": [], "res_blocks": 1},
        "diffusion": {"image_size": 32},
        "beta_schedule": {"train": {}},
    }
    config = check_config({"name": "x", "model": model, "datasets": {}})
    network = build_network(config["model"])
    masks, weights = random_masks(network), network.state_dict()
    save_checkpoint(tmp_path / "I1_E1", config, TrainingState(weights, weights, masks))
    dense = 4 * sum(tensor.numel() for tensor in weights.values())
    assert (tmp_path / "I1_E1_gen.safetensors").stat().st_size <= 0.2 * dense


def test_how_a_checkpoint_may_be_named(small_checkpoint):
    file = small_checkpoint.with_name("I3_E1_gen.safetensors")
    for name in (small_checkpoint, file, small_checkpoint.parent, small_checkpoint.with_name("I3_E1_opt.safetensors")):
        assert find_checkpoint(name).network == file


def test_a_checkpoint_in_a_folder_that_is_not_utf8(small_checkpoint, small_config, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(small_checkpoint.parent, folder)
    prefixes = folder / small_checkpoint.name, small_checkpoint
    ours, theirs = (load_network(prefix)[0].state_dict() for prefix in prefixes)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert load_training_state(folder / small_checkpoint.name, small_config).step
    assert read_tensors(folder / f"{small_checkpoint.name}_gen.safetensors")


def test_latest_is_by_steps(small_checkpoint, tmp_path):
    for name in ("I9_E1", "I10_E1", "I8_E7"):
        (tmp_path / f"{name}_gen.safetensors").write_bytes(b"")
    assert find_checkpoint(tmp_path).network.name == "I10_E1_gen.safetensors"


def test_published_network(published, golden):
    """norm_groups is not in the file: the config tells it, and then the output is the recorded one."""
    prefix, _, _ = published
    _, guessed = load_network(prefix)
    assert guessed["model"]["unet"]["channel_multiplier"] == [1, 2, 2]
    assert guessed["model"]["beta_schedule"]["val"]["n_timestep"] == 40
    told = changed(guessed, {"model.unet.norm_groups": 16})
    network, _ = load_network(f"{prefix}_gen.pth", config=told)
    tensors = load_file(golden / "network_tiny.safetensors")
    with torch.no_grad():
        condition = network.condition(tensors["square.lr_image"], (32, 32), 1.0)
        eps = network(tensors["square.x_t"], tensors["square.noise_level"].flatten(), condition)
    assert (eps - tensors["square.eps"]).norm() / tensors["square.eps"].norm() < 1e-5


def test_published_training_state(published):
    prefix, published_state, published_moments = published
    _, config = load_network(prefix)
    state = load_training_state(prefix, config)
    assert state.step == 7 and not state.masks and not state.masker
    pairs = {"encoder.input.weight": "denoise_fn.downs.0.weight", "lr_encoder.tail.bias": "encoder.tail.0.bias"}
    for ours, theirs in pairs.items():
        assert torch.equal(state.weights[ours], published_state[theirs])
        assert torch.equal(state.optimizer[ours]["exp_avg"], published_moments[theirs]["exp_avg"])
    assert all(kept["exp_avg"].shape == state.weights[name].shape for name, kept in state.optimizer.items())


def test_bad_files(small_checkpoint, small_config, published, tmp_path):
    whole = small_checkpoint.with_name("I3_E1_gen.safetensors").read_bytes()
    (tmp_path / "cut_gen.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut_gen.pth").write_bytes((published[0].parent / "I7_E2_gen.pth").read_bytes()[:5000])
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    (tmp_path / "empty").mkdir()
    for name in ("cut", "cut_gen.pth", "text.pth", "other.pth", "empty", "missing", "missing.pth"):
        with pytest.raises((UserError, ModelError)) as error:
            load_network(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_pickle_is_never_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"denoise_fn.downs.0.weight": Payload()}, tmp_path / "evil_gen.pth")
    with pytest.raises(UserError):
        load_network(tmp_path / "evil")
    assert not (tmp_path / "ran").exists()


def test_config_of_another_prediction(small_checkpoint, small_config):
    """The weights fit, and would be read as what they are not."""
    other = {"v": "epsilon", "epsilon": "v"}[small_config.model.diffusion.prediction]
    with pytest.raises(UserError, match=r"model\.diffusion\.prediction"):
        load_network(small_checkpoint, config=changed(small_config, {"model.diffusion.prediction": other}))


def test_config_of_another_network(small_checkpoint, small_config):
    other = changed(small_config, {"model.unet.inner_channel": 16})
    with pytest.raises(UserError, match=r"model\.unet\.inner_channel = 8, and the config says 16"):
        load_network(small_checkpoint, config=other)


def test_the_same_state_is_the_same_bytes(small_config, tmp_path):
    weights = build_network(small_config["model"]).state_dict()
    state = TrainingState(weights, weights, step=3)
    for n in range(8):
        save_checkpoint(tmp_path / f"{n}" / "I3_E1", small_config, state)
    for kind in ("gen", "opt"):
        assert len({file.read_bytes() for file in tmp_path.rglob(f"I3_E1_{kind}.safetensors")}) == 1
    file = tmp_path / "0" / "I3_E1_gen.safetensors"
    with safe_open(file, "pt") as content:
        assert list(content.metadata()) and content.metadata().keys() == {"format", "config", "step"}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_file(file).items())


@pytest.fixture
def shipped(small_checkpoint, tmp_path, monkeypatch):
    """The file that `faces` stands for; the one of `photos` is missing, and tmp_path is the working directory."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "shipped" / "face_network.safetensors"
    file.parent.mkdir()
    file.write_bytes(small_checkpoint.with_name("I3_E1_gen.safetensors").read_bytes())
    for name, path in {"faces": file, "photos": file.with_name("gone.safetensors")}.items():
        monkeypatch.setitem(FILES, name, path)
    return file


def test_a_shipped_network_has_a_name(shipped, tmp_path):
    assert find_checkpoint("faces") == CheckpointFiles(shipped, None)
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "one.png").write_bytes(b"")  # a folder of pictures is no checkpoint
    assert find_checkpoint("faces").network == shipped
    assert load_network("faces")[1].name == "small"


@pytest.mark.parametrize("own", ["faces_gen.safetensors", "faces.pth", "faces/I1_E1_gen.safetensors"])
def test_a_checkpoint_of_ones_own_comes_before_a_name(shipped, tmp_path, own):
    (tmp_path / own).parent.mkdir(exist_ok=True)
    (tmp_path / own).write_bytes(b"")
    assert find_checkpoint("faces").network == Path(own)


def test_a_shipped_network_that_is_missing(shipped):
    with pytest.raises(UserError, match=r"^photos: .*gone\.safetensors; use -r faces or"):
        find_checkpoint("photos")
    with pytest.raises(UserError, match=r"no such checkpoint; .* faces, faces-small, photos"):
        find_checkpoint("phots")


def test_a_link_to_nothing_as_the_latest_of_a_folder(small_checkpoint, tmp_path):
    shutil.copy(f"{small_checkpoint}_gen.safetensors", tmp_path / "I3_E1_gen.safetensors")
    (tmp_path / "I12_E1_gen.safetensors").symlink_to("nowhere")
    for named in (tmp_path, tmp_path / "I12_E1", tmp_path / "I12_E1_gen.safetensors"):
        with pytest.raises(UserError, match=r"I12_E1_gen\.safetensors: a link to nothing; mend or remove it"):
            find_checkpoint(named)
    assert find_checkpoint(tmp_path / "I3_E1").network.is_file()


@pytest.mark.parametrize(("name", "why"), [("a" * 300, "File name too long"), ("loop", "leads to itself")])
def test_a_checkpoint_of_an_impossible_name(tmp_path, name, why):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=why):
        find_checkpoint(tmp_path / name)
