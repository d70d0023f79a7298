"""The function for Python: what infer.py does with files, it does with images."""

import numpy as np
import pytest
from PIL import Image

import core.inference.network_choice
import infer
from core.checkpoint.files import load_checkpoint
from core.errors import UserError
from core.inference import upscale
from data import DataError
from model import ModelError


@pytest.fixture
def image(make_image):
    return make_image(9, 7, 1)


@pytest.mark.parametrize(
    ("arguments", "options"), [({"scale": 4}, ["--scale", "4"]), ({"scale": None, "seed": 5}, ["--seed", "5"])]
)
def test_as_infer_does(small_checkpoint, image, tmp_path, arguments, options):
    """Images and files, the settings of the checkpoint included: it has anchors."""
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / "a.png")
    command = [
        "-r",
        str(small_checkpoint),
        "-i",
        str(tmp_path / "a.png"),
        "-o",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert infer.main([*command, *options]) == 0
    expected = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    for given in (image, tmp_path / "a.png", str(tmp_path / "a.png")):
        [result] = upscale([given], network=small_checkpoint, device="cpu", **arguments)
        assert result.mode == "RGBA" and np.array_equal(np.asarray(result), expected)


def test_a_network_is_loaded_once(small_checkpoint, image, monkeypatch, tmp_path):
    loaded = []

    def load(file, *rest):
        loaded.append(file)
        return load_checkpoint(file, *rest)

    monkeypatch.setattr(core.inference.network_choice, "load_checkpoint", load)
    core.inference.network_choice._loaded.cache_clear()
    file = tmp_path / "copy.safetensors"
    file.write_bytes(small_checkpoint.with_name("I3_E1_gen.safetensors").read_bytes())
    first, second = upscale([image, image], file, device="cpu")
    [third] = upscale(image, file, device="cpu", seed=1)
    assert len(loaded) == 1
    assert np.array_equal(first, second) and not np.array_equal(first, third)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"network": "nowhere"}, "nowhere: no such checkpoint"),
        ({"scale": 0.5}, "scale is 0.5"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"preset": "slow"}, "preset is 'slow'"),
        ({"seed": -1}, "seed"),
        ({"device": "abacus"}, "abacus"),
        ({"images": ["gone.png"]}, r"gone\.png"),
        ({"images": Image.new("RGB", (40, 40)), "scale": None}, "40x40 pixels, more than the 32x32"),
    ],
)
def test_refusals(small_checkpoint, image, arguments, match):
    with pytest.raises((UserError, DataError, ModelError), match=match):
        upscale(**{"images": [image], "network": small_checkpoint, "device": "cpu"} | arguments)
