"""Images of one's own are validated as the checkpoint's config says, with one command and no file."""

import json
import subprocess
import sys

import pytest

from core.checkpoint.files import TrainingState, save_checkpoint
from core.config import changed
from core.errors import UserError
from core.own_images import own_images_config
from sr import main

VAL = {"phase": "val"}


@pytest.fixture
def trained(small_network, small_config, tmp_path):
    """A checkpoint whose training had two sets of validation images, on a machine far away."""
    elsewhere = {"dataroot": "/far/away", "name": "far", "data_len": 7, "batch_size": 3}
    val = {**small_config.datasets["val"], **elsewhere}
    train = {"dataroot": "/far/train", "l_resolution": 8, "r_resolution": 32, "batch_size": 2}
    sets = {"datasets.train": train, "datasets.val": val, "datasets.val_two": val}
    config = changed(small_config, {**sets, "path.root": "/far", "metrics.lpips_weights": "/far/alexnet.pth"})
    weights = small_network.state_dict()
    save_checkpoint(tmp_path / "I3_E1", config, TrainingState(weights, weights, step=3))
    return tmp_path / "I3_E1"


def test_only_the_named_images_are_validated_and_all_of_them(trained, tmp_path):
    config = own_images_config(trained, [f"datasets.val.dataroot={tmp_path / 'waves'}"], VAL)
    (images,) = config.datasets.validation.values()
    assert list(config.datasets.validation) == ["val"] and config.phase == "val"
    assert (images.name, images.data_len, images.batch_size) == ("waves", -1, 3)
    assert (images.l_resolution, images.r_resolution, config.magnification) == (8, 32, 4)
    assert config.sample.steps == 4 and config.name == "small"  # as the checkpoint says
    assert (config.path.root, config.metrics.lpips_weights) == ("experiments", None)  # not as the far machine


def test_overrides_win(trained):
    told = ["hr_dataroot=there/b", "name=b", "data_len=2", "r_resolution=16"]
    roots = ["datasets.val.dataroot=a", *(f"datasets.val_x.{text}" for text in told)]
    config = own_images_config(trained, [*roots, "sample.steps=2", "path.root=here"], VAL | {"sample.solver": "ddpm"})
    sets = {
        key: (images.name, images.dataroot or images.hr_dataroot) for key, images in config.datasets.validation.items()
    }
    assert sets == {"val": ("a", "a"), "val_x": ("b", "there/b")}
    assert (config.datasets.validation["val_x"].data_len, config.datasets.validation["val_x"].r_resolution) == (2, 16)
    assert (config.sample.steps, config.sample.solver, config.path.root) == (2, "ddpm", "here")
    assert config.magnification == 4  # of the training


def test_a_checkpoint_without_validation_images_has_the_sizes_of_its_training(small_network, small_config, tmp_path):
    train = {"hr_dataroot": "x", "l_resolution": 8, "r_resolution": 16, "batch_size": 2, "use_crop": True}
    config = changed(small_config, {"datasets": {"train": train}})
    weights = small_network.state_dict()
    save_checkpoint(tmp_path / "I1_E1", config, TrainingState(weights, weights))
    images = own_images_config(tmp_path / "I1_E1", ["datasets.val.hr_dataroot=mine"], VAL).datasets.validation["val"]
    assert (images.l_resolution, images.r_resolution, images.use_crop) == (8, 16, True)


def test_what_is_missing_is_one_line(trained, published):
    with pytest.raises(UserError, match=r"name their folder, --set datasets\.val\.dataroot=FOLDER"):
        own_images_config(trained, ["sample.steps=2"], VAL)
    with pytest.raises(UserError, match="holds no config: give one with -c"):
        own_images_config(published[0], ["datasets.val.dataroot=mine"], VAL)
    with pytest.raises(UserError, match=r"--set datasets\.val\.dataroof: unknown key"):
        own_images_config(trained, ["datasets.val.dataroof=mine", "datasets.val.dataroot=mine"], VAL)


@pytest.mark.filterwarnings("ignore:Unable to enable fault handler")  # of torch's `record`: stderr is captured here
@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize(("phase", "steps", "told"), [("distill", 5, True), ("distill", 1, False), ("train", 5, False)])
def test_another_chain_than_a_student_learnt_is_told(
    small_network, small_config, tmp_path, run_main, monkeypatch, from_file, phase, steps, told
):
    taught = {"phase": phase, "sample": {"solver": "ddim", "steps": 1, "key_steps": "none", "start": 0.9}}
    config, weights = changed(small_config, taught), small_network.state_dict()
    save_checkpoint(tmp_path / "I3_E1", config, TrainingState(weights, weights, step=3))
    (tmp_path / "config.json").write_text(json.dumps(changed(config, {"sample.steps": steps}).to_dict()))
    asked = ["-c", tmp_path / "config.json"] if from_file else ["--set", f"sample.steps={steps}"]
    images = ["--set", f"datasets.val.dataroot={tmp_path / 'waves'}", "--set", "datasets.val.data_len=1"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sr.py", "-p", "val", "-r", "I3_E1", *map(str, [*asked, *images])])
    code, out, err = run_main(lambda _: main())
    mend = "set sample.steps=1, or name a diffusion network with -r for others"
    assert code == 0 and (f"I3_E1 learnt only one chain, of 1 call: {mend}\n" in out) == told, err
    assert ("learnt" in out) == told


def sr(*arguments, cwd, root):
    command = [sys.executable, str(root / "sr.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_command(trained, tmp_path, pytestconfig):
    root = pytestconfig.rootpath
    images = ["--set", f"datasets.val.dataroot={tmp_path / 'waves'}"]
    done = sr("-p", "val", "-r", trained, *images, "--device", "cpu", cwd=tmp_path, root=root)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "experiments" / "small" / "results"
    assert json.loads((results / "metrics.json").read_text())["dataset"]["name"] == "waves"
    assert "experiments/small/results/report.html" in done.stdout and (results / "report.html").is_file()


def test_a_config_is_needed_for_all_else(tmp_path, pytestconfig):
    done = sr("-p", "train", "-r", "faces", cwd=tmp_path, root=pytestconfig.rootpath)
    assert done.returncode == 2 and done.stderr.startswith("error: give a config with -c") and not done.stdout
