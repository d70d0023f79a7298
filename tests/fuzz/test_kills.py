"""Runs killed at any moment: what is there can be read, and the run that goes on ends as one that was never killed."""

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from core.checkpoint.files import load_training_state
from data.images import read_rgb
from tests.core.conftest import SMALL
from tests.fuzz.hostile import count

ROOT = Path(__file__).parents[2]
STEPS = 60


@pytest.fixture
def photos(tmp_path):
    (folder := tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for n in range(60):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{n}.png")
    return folder


def kill_at_random(command, rng, longest):
    """Starts a command and kills it after up to `longest` seconds -> whether it was done before."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, stderr = process.communicate(timeout=rng.uniform(0, longest))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    assert process.returncode == 0, stderr.decode()[-2000:]
    return True


def run(command):
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return time.monotonic() - began


@pytest.mark.slow
def test_killed_trainings(tmp_path, photos):
    config = {**SMALL, "path": {"root": str(tmp_path / "experiments")}}
    images = {"dataroot": str(photos), "l_resolution": 8, "r_resolution": 32, "batch_size": 2, "num_workers": 0}
    config["datasets"] = {"train": images}
    config["train"] = {
        "n_iter": STEPS, "save_checkpoint_freq": 2, "val_freq": 1000, "print_freq": 10, "optimizer": {"lr": 1e-3},
        "ema_scheduler": {"step_start_ema": 5, "ema_decay": 0.9},
    }  # fmt: skip
    config["sparse"] = {"density": 0.15, "update_every": 7}
    (file := tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "sr.py", "-p", "train", "-c", str(file)]
    seconds = run([*command, "--set", "name=whole"])
    killed, finished, rng, folder = 0, 0, random.Random(0), tmp_path / "experiments/killed/checkpoint"
    while killed < count(2, 40):
        done = kill_at_random([*command, "--set", "name=killed", "-r", "auto"], rng, seconds)
        killed += not done
        for network in folder.glob("*_gen.safetensors"):  # whole, with its training file
            assert load_training_state(network, None).step == int(network.name[1:].split("_")[0])
        if done:  # the next one begins anew
            compare(folder, tmp_path / "experiments/whole/checkpoint")
            finished += 1
            folder.parent.rename(tmp_path / f"experiments/finished{finished}")
    run([*command, "--set", "name=killed", "-r", "auto"])
    compare(folder, tmp_path / "experiments/whole/checkpoint")


def compare(folder, whole):
    """The last checkpoints hold the same bits."""
    for kind in ("gen", "opt"):
        (ours,), (theirs,) = (list(each.glob(f"I{STEPS}_*_{kind}.safetensors")) for each in (folder, whole))
        ours, theirs = load_file(ours), load_file(theirs)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["folders", "lmdb"])
def test_killed_preparations(tmp_path, photos, form):
    options = ["--size", "8,32", "--n_worker", "2", *(["--lmdb"] if form == "lmdb" else [])]
    command = [sys.executable, "data/prepare_data.py", "--path", str(photos), *options, "--out"]
    seconds = run([*command, str(tmp_path / "whole")])
    rng, out = random.Random(0), tmp_path / "killed"
    for _ in range(count(2, 6)):
        kill_at_random([*command, str(out)], rng, seconds)
        for image in Path(f"{out}_8_32").glob("*/[!.]*.png"):
            assert read_rgb(image).width in (8, 32)
    run([*command, str(out)])
    ours, theirs = (Path(f"{path}_8_32") for path in (out, tmp_path / "whole"))
    if form == "folders":
        names = {path.relative_to(theirs) for path in theirs.glob("*/*.png")}
        assert names == {path.relative_to(ours) for path in ours.glob("*/*.png")} and len(names) == 120
        assert all((ours / name).read_bytes() == (theirs / name).read_bytes() for name in names)
    else:
        from data.stores import LmdbStore

        ours, theirs = (LmdbStore(folder, 8, 32) for folder in (ours, theirs))
        assert ours.names == theirs.names and len(ours) == 60
        assert all(np.array_equal(a, b) for n in range(60) for a, b in zip(ours.read(n), theirs.read(n), strict=True))
