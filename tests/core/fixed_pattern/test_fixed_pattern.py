"""The fixed pattern of a network's images, from the command line to the file without it."""

import copy
import re
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from core.checkpoint.files import TrainingState, load_checkpoint, save_checkpoint, step_of
from core.checkpoint.network_file import read_network_file
from core.config import check_config
from core.export import main as export
from core.fixed_pattern.__main__ import main
from core.fixed_pattern.removal import degradation_of, small_images, without_pattern
from core.sampling.super_resolution import Sampling, super_resolve
from core.sampling.trained_sizes import TrainedSizes
from data.degradation import Degradation
from data.images import read_rgb
from data.tensors import to_tensor
from model import build_network
from model.distillation.fixed_pattern import COUNTS, fixed_pattern
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

    old, new = (read_network_file(file).weights for file in (checkpoint, even))
    assert old.keys() == new.keys() and {name for name in old if not torch.equal(old[name], new[name])} == {BIAS}
    assert step_of(tmp_path / "new" / "even.safetensors") == 7
    config, same = (load_checkpoint(file).config for file in (checkpoint, tmp_path / "new" / "even.safetensors"))
    assert config.to_dict() == same.to_dict()
    other = make_image(24, 24, 9.5)  # that it has not seen
    was, now = (checkerboard_of(file, other) for file in (checkpoint, tmp_path / "new" / "even.safetensors"))
    assert now.norm() < was.norm() / 2


def test_the_input_is_written_over_where_it_is_the_output(run, checkpoint, photos):
    before = read_network_file(checkpoint).weights[BIAS]
    assert run("-r", checkpoint, "--photos", photos, "-o", checkpoint, "--images", 1)[0] == 0
    assert not torch.equal(read_network_file(checkpoint).weights[BIAS], before)


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


class KnownMeter:
    """In place of a network: images with a pattern that the bias takes out, and a grain that grows with its square."""

    def __init__(self, grain):
        bias = torch.nn.Parameter(torch.zeros(12))
        self.network = SimpleNamespace(lr_encoder=SimpleNamespace(tail=SimpleNamespace(bias=bias)))
        self.bias, self.grain, generator = bias, grain, torch.Generator().manual_seed(0)
        self.pattern = torch.randn(3, 2, 2, generator=generator) / 50
        self.pattern -= self.pattern.mean((1, 2), keepdim=True)
        self.noise = torch.randn(1, 3, 48, 48, generator=generator)

    @torch.no_grad()
    def result(self, image, number):
        pattern = (self.pattern + self.bias.view(3, 2, 2)).repeat(1, 24, 24)
        return image + pattern + self.grain * self.bias.square().sum() * self.noise

    def results(self, images, what=""):
        return [self.result(image, number) for number, image in enumerate(images)]

    def pattern_in(self, results):
        return torch.stack([fixed_pattern(image, 2) for image in results]).mean(dim=0)


@pytest.mark.parametrize("grain", [0, 100, 1e6])
def test_a_change_that_harms_the_images_more_than_it_helps_is_not_kept(grain, capsys):
    """...and half of it is tried, until it helps."""
    meter, image = KnownMeter(grain), torch.zeros(1, 3, 48, 48)
    bias = without_pattern(meter, [image] * 3)
    before, *changes = capsys.readouterr().out.splitlines()
    amount = meter.pattern.square().mean().sqrt() * 127.5
    assert before == f"pattern before: {amount:.3f} grey levels rms"
    if grain == 0:
        part = COUNTS / (COUNTS + 1)  # of the pattern, as taking it out changes the images as much
        torch.testing.assert_close(bias.view(3, 2, 2), -part * meter.pattern, atol=1e-3, rtol=0)
        assert "not kept" not in changes[0]
    elif grain == 100:
        assert "not kept" in changes[0] and not all("not kept" in change for change in changes)
        assert 0.1 < bias.norm() / meter.pattern.norm() < 0.9
    else:
        assert not bias.any() and all("not kept" in change for change in changes) and len(changes) == 4
