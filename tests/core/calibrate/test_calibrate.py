"""The measurement of a checkpoint, from the command line to the key steps auto:N of whatever samples."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import core.calibrate.calibration
import infer
from core.calibrate.__main__ import main
from core.calibrate.calibration import images_of_config
from core.checkpoint.files import (
    TrainingState,
    load_checkpoint,
    load_network,
    load_training_state,
    save_checkpoint,
    save_encoder_change,
)
from core.checkpoint.tensor_files import write_safetensors
from core.config import changed, load_config
from core.errors import UserError
from core.inference.input_files import evenly
from core.report.pictures import heat_map
from core.sampling.super_resolution import Sampling, super_resolve
from core.sampling.trained_sizes import TrainedSizes
from core.shipped import FILES
from model import ModelError, build_network
from model.sampler import SamplingPlan, sample
from model.sampling.key_steps import EncoderChange, key_steps_by_change
from sparse.inspect import main as inspect


@pytest.fixture
def run(run_main):
    """run(*options) -> (exit code, stdout, stderr)."""
    return partial(run_main, main, "--device", "cpu")


@pytest.fixture
def checkpoint(small_config, small_network, tmp_path):
    """The prefix of a sparse checkpoint of its own, trained on the images of `small_config`."""
    masks = {name: torch.rand_like(weight) < 0.5 for name, weight in small_network.prunable_parameters().items()}
    weights = {name: tensor * masks.get(name, 1) for name, tensor in small_network.state_dict().items()}
    save_checkpoint(tmp_path / "run" / "I3_E1", small_config, TrainingState(weights, weights, masks, step=3))
    return tmp_path / "run" / "I3_E1"


@pytest.fixture
def change():
    """A measurement of the 20 timesteps of the small network, of which the last six alone differ."""
    position = torch.tensor([0.0] * 14 + [1, 2, 3, 4, 5, 6])
    return EncoderChange(tuple(reversed(range(20))), (position[:, None] - position).square())


@pytest.fixture
def measured(checkpoint, change):
    """The checkpoint with that measurement."""
    loaded = replace(load_checkpoint(checkpoint), encoder_change=change)
    save_encoder_change(checkpoint, loaded, checkpoint.with_name("I3_E1_gen.safetensors"))
    return checkpoint


def network_file(prefix):
    return prefix.with_name(f"{prefix.name}_gen.safetensors")


def metadata(file):
    with safe_open(file, framework="pt") as content:
        return content.metadata()


# ---------------------------------------------------------------------------------------------------------------------
# The command.


def test_measures_and_saves(run, checkpoint, make_image, tmp_path):
    make_image(8, 8, 1).save(tmp_path / "a.png")
    make_image(9, 7, 2).save(tmp_path / "b.png")
    before, about = load_file(network_file(checkpoint)), metadata(network_file(checkpoint))
    code, stdout, stderr = run("-r", checkpoint, "-i", tmp_path / "a.png", tmp_path / "b.png", "--timesteps", 5)
    assert (code, stderr) == (0, "")
    assert "8x8 -> 32x32" in stdout and "9x7 -> 36x28" in stdout and "I3_E1_gen.safetensors" in stdout
    after = load_file(network_file(checkpoint))
    new = {name: after.pop(name) for name in set(after) - set(before)}
    assert sorted(new) == ["encoder_change/distance", "encoder_change/timesteps"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert metadata(network_file(checkpoint)) == about
    names = {file.name for file in checkpoint.parent.iterdir()}
    assert names == {"I3_E1_gen.safetensors", "I3_E1_opt.safetensors", "I3_E1_encoder_change.png"}

    change = load_checkpoint(checkpoint).encoder_change
    assert change.timesteps == SamplingPlan(5, 20, ()).timesteps
    assert change.distance[0, 4] > 0


def test_the_mean_over_images_that_each_have_noise_of_their_own(run, checkpoint, make_image, tmp_path):
    distances = []
    for n in range(2):
        make_image(8, 8, n).save(tmp_path / f"{n}.png")
        assert run("-r", checkpoint, "-i", tmp_path / f"{n}.png", "--seed", 7 + n, "--timesteps", 3)[0] == 0
        distances.append(load_checkpoint(checkpoint).encoder_change.distance)
    run("-r", checkpoint, "-i", tmp_path / "0.png", tmp_path / "1.png", "--seed", 7, "--timesteps", 3)
    assert not torch.equal(*distances)
    assert torch.allclose(load_checkpoint(checkpoint).encoder_change.distance, sum(distances) / 2)


def test_settings_are_heard(run, checkpoint, monkeypatch):
    seen = {}

    def note(network, lr, size, timesteps, **options):
        seen.update(options, size=size, timesteps=timesteps)
        return EncoderChange((19,), torch.zeros(1, 1))

    monkeypatch.setattr(core.calibrate.calibration, "encoder_change", note)
    assert run("-r", checkpoint, "--images", 1, "--solver", "ddpm", "--consistency", 2)[0] == 0
    assert seen == {
        "solver": "ddpm", "seed": 0, "consistency": 2, "scale": 1.0, "size": (32, 32), "timesteps": 100,
    }  # fmt: skip


def test_images_of_the_config(run, checkpoint, small_config):
    code, stdout, _ = run("-r", checkpoint, "--images", 2, "--timesteps", 2)
    assert code == 0 and "[2/2]" in stdout and "wave0" in stdout and "wave2" in stdout
    trained = changed(small_config, {"datasets.train": small_config.datasets["val"]})
    assert len(images_of_config(trained, 8)) == 5
    with pytest.raises(UserError, match=r"no datasets .* -i"):
        images_of_config(changed(small_config, {"datasets": {}}), 8)


def test_evenly():
    assert evenly(range(10), 4) == [0, 2, 5, 7]
    assert evenly([3, 4], 8) == [3, 4]


def test_another_file(run, checkpoint, tmp_path):
    before = network_file(checkpoint).read_bytes()
    other = tmp_path / "new" / "other_gen.safetensors"
    assert run("-r", checkpoint, "-o", other, "--images", 1, "--timesteps", 2)[0] == 0
    assert network_file(checkpoint).read_bytes() == before
    assert load_checkpoint(other).encoder_change and load_checkpoint(checkpoint).encoder_change is None
    assert (tmp_path / "new" / "other_encoder_change.png").is_file()


def test_a_published_checkpoint_becomes_a_native_one(run, golden, make_image, tmp_path):
    keys = json.loads((golden / "network_tiny.json").read_text())["all_state_dict_keys"]
    tensors = load_file(golden / "network_tiny.safetensors")
    torch.save({key: tensors.get(f"state.{key}", tensors.get(f"schedule.{key}", torch.zeros(shape)))
                for key, shape in keys.items()}, tmp_path / "I7_E2_gen.pth")  # fmt: skip
    make_image(4, 4).save(tmp_path / "a.png")
    options = ("-r", tmp_path / "I7_E2", "-i", tmp_path / "a.png", "--timesteps", 2)
    code, _, stderr = run(*options)
    assert code == 2 and "-o FILE" in stderr and len(stderr.splitlines()) == 1
    assert run(*options, "-o", tmp_path / "native_gen.safetensors")[0] == 0
    native, published = load_checkpoint(tmp_path / "native"), load_checkpoint(tmp_path / "I7_E2")
    assert native.config == published.config and native.encoder_change and published.encoder_change is None
    assert native.step == published.step == 7
    weights = published.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in native.network.state_dict().items())


@pytest.mark.parametrize("by_name", [True, False])
def test_a_network_that_comes_with_the_project_changes_only_if_it_is_named(run, checkpoint, monkeypatch, by_name):
    file = network_file(checkpoint)
    monkeypatch.setitem(FILES, "faces-chain", file)
    before, options = file.read_bytes(), ("-r", "faces-chain" if by_name else checkpoint, "--images", 1)
    code, stdout, stderr = run(*options)
    assert (code, stdout, len(stderr.splitlines())) == (2, "", 1) and "name a file with -o" in stderr
    assert file.read_bytes() == before and len(list(file.parent.iterdir())) == 2
    assert run(*options, "--timesteps", 2, "-o", file)[0] == 0
    assert load_checkpoint(file).encoder_change


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-i", "gone"], "gone: no such file"),
        (["-i", "{empty}"], "no image in"),
        (["-i", "{text}"], "cannot read image"),
        (["--images", "0"], "1 or more"),
        (["--solver", "euler"], "--solver"),
        (["--device", "abacus"], "abacus"),
        (["-o", "out.png"], "must be a file that ends in .safetensors"),
        (["-o", "{text}/a.safetensors"], "it is not a folder"),
        (["-o", "I3_E1_opt.safetensors"], "but not in _opt.safetensors"),
        (["-o", "."], "is a folder; name a file in it"),
        (["-r", "gone"], "no such checkpoint"),
        (["--colour"], "core.calibrate --help"),
    ],
)
def test_refuses_in_one_line_and_writes_nothing(run, checkpoint, tmp_path, options, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    before = network_file(checkpoint).read_bytes()
    options = [option.format(empty=tmp_path / "empty", text=tmp_path / "text.png") for option in options]
    code, stdout, stderr = run("-r", checkpoint, "-o", tmp_path / "new" / "x.safetensors", *options)
    assert (code, stdout, len(stderr.splitlines())) == (2, "", 1)
    assert stderr.startswith("error: ") and words in stderr
    assert network_file(checkpoint).read_bytes() == before and not (tmp_path / "new").exists()


def test_images_that_are_gone_say_what_to_give(run, checkpoint, small_config):
    shutil.rmtree(small_config["datasets"]["val"]["dataroot"])
    code, _, stderr = run("-r", checkpoint)
    assert code == 2 and "give LR images with -i" in stderr


def test_out_of_memory_is_one_line(run, checkpoint, monkeypatch):
    def fail(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried")

    monkeypatch.setattr(core.calibrate.calibration, "encoder_change", fail)
    code, _, stderr = run("-r", checkpoint)
    assert code == 2 and "out of memory at 32x32" in stderr and len(stderr.splitlines()) == 1


def test_picture_has_the_largest_change_white():
    picture = np.asarray(heat_map(np.array([[0, 1], [1, 4.0]])))
    assert picture.shape == (400, 400)
    assert picture[0, 0] == 0 and picture[-1, -1] == 255 and abs(int(picture[0, -1]) - 127.5) < 1
    assert not np.asarray(heat_map(np.zeros((3, 3)))).any()


# ---------------------------------------------------------------------------------------------------------------------
# In the file.


def test_a_measured_file_is_a_checkpoint_like_another(measured, change, small_config, capsys):
    loaded = load_checkpoint(measured, config=small_config)
    assert (loaded.config, loaded.step) == (small_config, 3)
    assert torch.equal(loaded.encoder_change.distance, change.distance)
    assert loaded.encoder_change.timesteps == change.timesteps
    assert not [name for name in loaded.network.state_dict() if "change" in name]
    assert inspect([str(network_file(measured))]) == 0
    assert "change" not in capsys.readouterr().out


def test_a_measurement_does_not_outlive_training(measured, small_config):
    """What continues from a measured checkpoint, and is saved again, has none."""
    saved = load_training_state(measured, small_config)
    assert not [name for name in (*saved.weights, *saved.ema) if "change" in name]
    build_network(small_config["model"]).load_state_dict(saved.ema)
    save_checkpoint(measured, small_config, replace(saved, step=4))
    assert load_checkpoint(measured).encoder_change is None


def test_a_measurement_under_another_noise_schedule_is_none(measured, small_config):
    other = changed(small_config, {"model.beta_schedule.val.linear_end": 0.2})
    assert load_checkpoint(measured, config=other).encoder_change is None


@pytest.mark.parametrize(
    "damage",
    [
        {"encoder_change/distance": torch.zeros(3, 3)},
        {"encoder_change/timesteps": torch.arange(20)},
        {"encoder_change/timesteps": None},
        {"encoder_change/distance": None},
        {"encoder_change/timesteps": torch.tensor(5)},
    ],
)
def test_a_damaged_measurement_is_one_line(measured, damage):
    file = network_file(measured)
    tensors = {name: tensor for name, tensor in (load_file(file) | damage).items() if tensor is not None}
    write_safetensors(file, tensors, metadata(file))
    with pytest.raises(UserError, match="damaged: its measured encoder change") as error:
        load_network(measured)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# In sampling.


def test_settings_with_auto_sample_at_the_steps_that_fit(measured, change, small_config):
    network, _ = load_network(measured)
    settings = small_config.sample.replace(steps=10, key_steps="auto:3")
    sampling = Sampling.of(settings, network.schedule, change)
    assert sampling.plan.key_steps == (0, 8, 9)  # positions are 0 up to order 6, then 1, 3, 5
    lr = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    ours = super_resolve(network, lr, (32, 32), sampling, [5], TrainedSizes(4))
    assert torch.equal(ours, sample(network, lr, (32, 32), sampling.plan, "ddim", [5]).clamp(-1, 1))
    assert sampling.describe().endswith("encoder at 3 of them (key steps auto:3)")


def test_start_leaves_all_key_steps_in_the_chain(measured, change, small_config):
    network, _ = load_network(measured)
    start = float(network.schedule.noise_levels[7])
    settings = small_config.sample.replace(steps=12, key_steps="auto:3", start=start)
    sampling = Sampling.of(settings, network.schedule, change)
    plan = sampling.executed
    assert plan.timesteps == tuple(reversed(range(8)))
    assert plan.key_steps == key_steps_by_change(change, plan.timesteps, 3)
    seen = []
    encode = network.encode
    network.encode = lambda x, level, condition: seen.append(level.item()) or encode(x, level, condition)
    super_resolve(network, torch.zeros(1, 3, 8, 8), (16, 16), sampling, [0], TrainedSizes(4))
    levels = network.schedule.noise_levels[[plan.timesteps[order] for order in plan.key_steps]]
    assert seen == pytest.approx(levels.tolist())


def test_without_a_measurement_auto_is_refused(small_network, small_config):
    settings = small_config.sample.replace(key_steps="auto:2")
    with pytest.raises(ModelError, match=r"python -m core\.calibrate"):
        Sampling.of(settings, small_network.schedule)


def test_infer(measured, checkpoint, make_image, tmp_path, capsys):
    make_image(8, 8).save(tmp_path / "a.png")

    def results(name, *options):
        common = ["-r", str(measured), "-i", str(tmp_path / "a.png"), "-o", str(tmp_path / name), "--device", "cpu"]
        assert infer.main([*common, "--steps", "10", *options]) == 0
        return (tmp_path / name / "a.png").read_bytes()

    assert results("auto", "--key-steps", "auto:3") == results("orders", "--key-steps", "0,8,9")
    assert results("uniform", "--key-steps", "uniform:4") != results("auto", "--key-steps", "auto:3")
    with pytest.raises(SystemExit):
        results("many", "--key-steps", "auto:11")
    error = capsys.readouterr().err
    assert error.startswith("error: --key-steps: ") and "auto:11 asks for more key steps" in error


def test_infer_without_a_measurement(checkpoint, make_image, tmp_path, capsys):
    make_image(8, 8).save(tmp_path / "a.png")
    with pytest.raises(SystemExit) as stop:
        infer.main(["-r", str(checkpoint), "-i", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"),
                    "--device", "cpu", "--key-steps", "auto:3"])  # fmt: skip
    error = capsys.readouterr().err
    assert stop.value.code == 2 and len(error.splitlines()) == 1 and "python -m core.calibrate" in error
    assert not (tmp_path / "out").exists()


def test_a_config_may_say_auto_unless_it_is_to_be_validated_in_training(tmp_path, small_config):
    small_config = small_config.to_dict()
    spec = small_config["datasets"]["val"] | {"batch_size": 2}
    keys = ("dataroot", "l_resolution", "r_resolution", "batch_size")
    small_config["datasets"]["train"] = {key: spec[key] for key in keys}
    small_config["train"] = {"n_iter": 1, "optimizer": {"lr": 1e-3}}
    small_config["sample"]["key_steps"] = "auto:3"
    file = tmp_path / "config.json"
    file.write_text(json.dumps(small_config))
    assert load_config(file, ["phase=val"])["sample"]["key_steps"] == "auto:3"
    with pytest.raises(UserError, match=r"sample\.key_steps is auto:3, but it needs a measurement"):
        load_config(file)
    with pytest.raises(UserError, match="auto:5 asks for more key steps than the chain has steps: give at most auto:4"):
        load_config(file, ["phase=val", "key_steps=auto:5"])
    del small_config["datasets"]["val"]
    file.write_text(json.dumps(small_config))
    assert load_config(file)["sample"]["key_steps"] == "auto:3"
