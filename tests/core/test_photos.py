"""The configs for photographs, as a user runs them on a folder of photographs, with a network that a CPU trains."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.checkpoint.files import saved_config
from core.config import load_config
from core.export import main as export
from core.perceptual_network.__main__ import main as make_perceptual_network
from data.demo import read_photo
from model import build_network

ROOT = Path(__file__).parents[2]
PHOTOS = ("chelsea.png", "coffee.png", "astronaut.png")
SMALL = {
    "inner_channel": 8,
    "norm_groups": 4,
    "res_blocks": 1,
    "n_resblocks": 1,
    "n_feats": 4,
    "train.l_resolution": 8,
    "train.r_resolution": 32,
    "train.sizes": "[[8, 32, 1], [8, 16, 1]]",
    "diffusion.image_size": 32,
    "train.batch_size": 2,
    "train.num_workers": 0,
    "beta_schedule.train.n_timestep": 40,
    "beta_schedule.train.linear_start": 1e-3,
    "beta_schedule.train.linear_end": 0.2,
    "n_iter": 2,
    "print_freq": 1,
}
DEGRADED = {
    "datasets.train.degradation.blur_prob": 1,
    "datasets.train.degradation.resize_prob": [1, 2, 1],
    "datasets.train.degradation.noise_prob": 1,
    "datasets.train.degradation.jpeg_prob": 1,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photographs of three sizes, as JPEG files."""
    folder = tmp_path_factory.mktemp("photos")
    for name in PHOTOS:
        photo = read_photo(name)
        photo.thumbnail((240, 240))
        photo.save(folder / f"{Path(name).stem}.jpg", quality=93)
    return folder


def run(phase, config, *arguments, **overrides):
    """sr.py, of which every override is KEY=VALUE -> its output."""
    sets = [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]
    command = [
        sys.executable,
        "sr.py",
        "-p",
        phase,
        "-c",
        f"config/{config}.yaml",
        "--device",
        "cpu",
        *arguments,
        *sets,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["photos_x4", "photos_x4_faithful", "photos_x4_one_call"])
def test_one_override_names_a_folder_of_ones_own(name, photos):
    config = load_config(ROOT / "config" / f"{name}.yaml", [f"datasets.train.hr_dataroot={photos}"])
    assert config.datasets.train.hr_dataroot == str(photos) and not config.datasets.validation
    assert config.magnification == 4 and [32, 64, 1] in config.datasets.train.sizes
    with torch.device("meta"):
        build_network(config.model, initialised=False)


@pytest.mark.parametrize("key", ["val", "val_jpeg"])
def test_one_override_gives_a_validation_set(key, photos):
    config = load_config(ROOT / "config/photos_x4.yaml", [f"datasets.{key}.hr_dataroot={photos}"])
    assert list(config.datasets.validation) == [key]


def test_both_students_are_one_network():
    faithful, sharp = (
        load_config(ROOT / f"config/{name}.yaml") for name in ("photos_x4_faithful", "photos_x4_one_call")
    )
    assert faithful.model == sharp.model and faithful.sample == sharp.sample


@pytest.mark.parametrize("student", ["photos_x4_faithful", "photos_x4_one_call"])
def test_teacher_and_student_see_the_same_images(student):
    teacher, student = (load_config(ROOT / f"config/{name}.yaml") for name in ("photos_x4", student))
    for key in ("sizes", "l_resolution", "r_resolution"):
        assert teacher.datasets.train[key] == student.datasets.train[key]
    of_teacher, of_student = (each.datasets.train.degradation for each in (teacher, student))
    for key in ("blur_prob", "resize_prob", "noise_prob", "jpeg_range", "jpeg_last_prob"):
        assert of_teacher[key] == of_student[key]
    assert 0 < of_student.jpeg_prob <= of_teacher.jpeg_prob  # it knows what the student is shown


@pytest.mark.slow
def test_a_network_and_its_student_train_on_photographs(photos, tmp_path):
    """Two steps of each of the three stages in drawn sizes, on degraded LR, and a validation on LR saved as JPEG."""
    common = SMALL | {"path.root": tmp_path, "datasets.train.hr_dataroot": photos}
    of_student = {key: value for key, value in common.items() if key != "norm_groups"}
    validated = {"datasets.val_jpeg.hr_dataroot": photos}
    validated |= {"datasets.val_jpeg.l_resolution": 16, "datasets.val_jpeg.r_resolution": 64}
    trained = run("train", "photos_x4", **common, **DEGRADED, **validated)
    assert "step 2/2" in trained and "JPEG 75" in trained
    report = json.loads((tmp_path / "photos_x4/results/val_jpeg/metrics.json").read_text())
    assert report["images"] == 3 and report["dataset"]["degradation"]["jpeg_range"] == [75, 75]
    teacher = tmp_path / "photos_x4/checkpoint"
    faithful = run("distill", "photos_x4_faithful", "-r", str(teacher), **of_student, **DEGRADED)
    assert "step 2/2" in faithful
    export(["-r", str(tmp_path / "photos_x4_faithful/checkpoint"), "-o", str(tmp_path / "faithful.safetensors")])
    judge = tmp_path / "perceptual_photos.safetensors"
    quick = "--steps", "2", "--batch", "4", "--width", "4"
    make_perceptual_network(["--images", str(photos), "-o", str(judge), *quick])
    of_student |= {"distill.perceptual_network": judge}
    start = "-r", str(tmp_path / "faithful.safetensors")
    student = run("distill", "photos_x4_one_call", *start, **of_student, **DEGRADED)
    assert "step 2/2" in student and "adversarial" in student and "perceptual 0.0000" not in student
    assert saved_config(tmp_path / "photos_x4_one_call/checkpoint").distill.teacher == str(teacher / "I2_E2")
