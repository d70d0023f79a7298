"""The fixed pattern of a network's images, from the command line to the file without it."""

import copy
import re
from functools import partial

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from core.checkpoint import TrainingState, load_checkpoint, save_checkpoint, step_of
from core.config import check_config
from core.export import main as export
from core.fixed_pattern import main
from core.pattern_removal import degradation_of, small_images
from core.sampling import Sampling, super_resolve
from core.trained_sizes import TrainedSizes
from data.degradation import Degradation
from data.images import read_rgb
from data.tensors import to_tensor
from model import build_network
from tests.core.conftest import SMALL

BIAS = "lr_encoder.tail.bias"


@pytest.fixture
def run(run_main):
    """run(*options) -> (exit code, stdout, stderr)."""
    return partial(run_main, main, "--device", "cpu")


def config_of(sub_pixel, magnification=2):
    config = copy.deepcopy(SMALL)
    config["model"]["lr_encoder"]["sub_pixel"] = sub_pixel
    config["datasets"]["val"]["l_resolution"] = 32 // magnification
    config["sample"]["steps"] = 2
    return check_config(config)


@pytest.fixture
def checkpoint(tmp_path):
    """The shipped file, its values in 8 bits, of a network with 2x2 sub-pixels that are uneven."""
    torch.manual_seed(0)
    config = config_of(2)
    weights = build_network(config.model).state_dict()
    weights[BIAS] += torch.tensor([0.3, -0.3, -0.3, 0.3] * 3)
    save_checkpoint(tmp_path / "run" / "I7_E1", config, TrainingState(weights, weights, step=7))
    export(["-r", str(tmp_path / "run" / "I7_E1"), "-o", str(tmp_path / "uneven.safetensors")])
    return tmp_path / "uneven.safetensors"


@pytest.fixture
def photos(tmp_path, make_image):
    """A folder of three photographs of different sizes."""
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    for n in range(3):
        make_image(48 + n, 53, n).save(tmp_path / "photos" / "inner" / f"{n}.png")
    return tmp_path / "photos"


def checkerboard_of(file, image):
    """How much the results of a network follow a checkerboard, the pattern of the fixture: (3,) in grey levels."""
    loaded = load_checkpoint(file)
    sampling = Sampling.of(loaded.config.sample, loaded.network.schedule)
    sr = super_resolve(loaded.network, to_tensor(image)[None], (48, 48), sampling, [5], TrainedSizes(2))[0]
    board = torch.tensor([[1.0, -1], [-1, 1]]).repeat(24, 24)
    return (sr * board).mean(dim=(1, 2)).abs() * 127.5


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_the_pattern_falls_and_nothing_else_changes(run, checkpoint, photos, make_image, tmp_path, device):
    before, even = checkpoint.read_bytes(), tmp_path / "new" / "even.safetensors"
    code, stdout, stderr = run("-r", checkpoint, "--photos", photos, "-o", even, "--device", device)
    assert (code, stderr) == (0, "") and checkpoint.read_bytes() == before
    values = [float(value) for value in re.findall(r"(?:before|change \d): (\d+\.\d+)", stdout)]
    assert 2 <= len(values) <= 5 and min(values) < values[0] / 2, stdout

    old, new = load_file(checkpoint), load_file(tmp_path / "new" / "even.safetensors")
    assert old.keys() == new.keys() and {name for name in old if not torch.equal(old[name], new[name])} == {BIAS}
    assert step_of(tmp_path / "new" / "even.safetensors") == 7
    config, same = (load_checkpoint(file).config for file in (checkpoint, tmp_path / "new" / "even.safetensors"))
    assert config.to_dict() == same.to_dict()
    other = make_image(24, 24, 9.5)  # that it has not seen
    was, now = (checkerboard_of(file, other) for file in (checkpoint, tmp_path / "new" / "even.safetensors"))
    assert now.norm() < was.norm() / 2


def test_the_input_is_written_over_where_it_is_the_output(run, checkpoint, photos):
    before = load_file(checkpoint)[BIAS]
    assert run("-r", checkpoint, "--photos", photos, "-o", checkpoint, "--images", 1)[0] == 0
    assert not torch.equal(load_file(checkpoint)[BIAS], before)


@pytest.mark.parametrize(
    ("sub_pixel", "magnification", "told"),
    [(1, 4, r"has no sub-pixels"), (2, 4, r"magnifies 4 times with 2 sub-pixels")],
)
def test_networks_without_such_a_pattern(run, photos, tmp_path, sub_pixel, magnification, told):
    config = config_of(sub_pixel, magnification)
    weights = build_network(config.model).state_dict()
    save_checkpoint(tmp_path / "I1_E1", config, TrainingState(weights, weights))
    refused(run("-r", tmp_path / "I1_E1", "--photos", photos, "-o", tmp_path / "x.safetensors"), told, tmp_path)


def test_photos_that_cannot_be_used(run, checkpoint, make_image, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "small").mkdir()
    make_image(40, 15).save(tmp_path / "small" / "a.png")
    cases = {
        "none": "no image in this folder",
        "small": "a.png: 40x15 is too small; .* 16x16",
        "away": "no such folder",
    }
    for name, told in cases.items():
        refused(run("-r", checkpoint, "--photos", tmp_path / name, "-o", tmp_path / "x.safetensors"), told, tmp_path)


def test_checkpoint_that_is_missing(run, photos, tmp_path):
    done = run("-r", tmp_path / "away", "--photos", photos, "-o", tmp_path / "x.safetensors")
    refused(done, "no such checkpoint", tmp_path)


def refused(done, told, folder):
    code, _, stderr = done
    assert code == 2 and len(stderr.splitlines()) == 1 and re.search(told, stderr), stderr
    assert not (folder / "x.safetensors").exists()


def test_small_images_are_made_as_in_the_training(photos):
    """With marks of JPEG where the training had them, the same each time; by bicubic resizing where it had none."""
    plain = small_images(photos, 3, 2)
    for image, n in zip(plain, range(3), strict=True):
        photo = read_rgb(photos / "inner" / f"{n}.png")
        side = min(photo.size) // 2
        left, top = ((length - 2 * side) // 2 for length in photo.size)
        square = photo.crop((left, top, left + 2 * side, top + 2 * side))
        expected = square.resize((side, side), Image.Resampling.BICUBIC)
        assert torch.equal(image[0], to_tensor(expected))
    how = Degradation(resize_prob=(0, 0, 1), resize_modes=("bicubic",), jpeg_prob=1, jpeg_range=(50, 50))
    worse, again = small_images(photos, 3, 2, how), small_images(photos, 3, 2, how)
    for a, b, c in zip(plain, worse, again, strict=True):
        assert torch.equal(b, c) and 0.002 < (a - b).abs().mean() < 0.1


def test_the_degradation_is_that_of_the_checkpoints_training(checkpoint, tmp_path):
    assert degradation_of(load_checkpoint(checkpoint)) is None  # trained on LR by bicubic resizing, as far as it tells
    config = config_of(2).to_dict()
    config["datasets"]["train"] = config["datasets"]["val"] | {"batch_size": 1, "degradation": {"jpeg_prob": 0.7}}
    weights = build_network(config_of(2).model).state_dict()
    save_checkpoint(tmp_path / "I2_E1", check_config(config), TrainingState(weights, weights))
    how = degradation_of(load_checkpoint(tmp_path / "I2_E1"))
    assert how is not None and (how.jpeg_prob, how.blur_prob) == (0.7, 0)
