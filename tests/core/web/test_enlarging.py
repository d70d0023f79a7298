"""What is behind the web page, without gradio: results as of `upscale`, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.config import PRESETS
from core.errors import UserError
from core.inference import upscale
from core.shipped import FILES
from core.web.enlarging import Choice, Enlarger, networks, presets_of
from core.web.limits import Limits
from data import DataError
from data.images import read_picture


@pytest.fixture
def network(small_checkpoint, monkeypatch):
    """The name of a shipped network, which is the small one here."""
    monkeypatch.setitem(FILES, "photos", small_checkpoint.with_name("I3_E1_gen.safetensors"))
    return "photos"


@pytest.fixture
def enlarger():
    return Enlarger(torch.device("cpu"), Limits(most_bytes=20_000, most_pixels=2000))


@pytest.fixture
def photo(make_image, tmp_path):
    """photo(width, height) -> a file."""

    def save(width, height, image=None):
        (image or make_image(width, height, 1)).save(tmp_path / "a.png")
        return tmp_path / "a.png"

    return save


@pytest.mark.parametrize(("preset", "scale"), [(None, None), (None, 3), ("fast", 2)])
def test_results_are_those_of_upscale(enlarger, network, photo, preset, scale):
    file = photo(9, 7)
    done = enlarger.enlarge(file, Choice(network, preset, scale))
    [expected] = upscale(file, network, scale, preset, device="cpu")
    assert np.array_equal(done.result, expected)
    assert np.array_equal(read_picture(done.png).rgb, expected)
    bicubic = Image.open(file).resize(expected.size, Image.Resampling.BICUBIC)
    assert np.array_equal(done.bicubic, bicubic)
    assert f"9x7 → {expected.width}x{expected.height} pixels, photos" in done.told


def test_steps_are_told(enlarger, network, photo):
    told = []
    enlarger.enlarge(photo(9, 7), Choice(network, "quality"), lambda *share: told.append(share))
    assert told == [(step, told[0][1]) for step in range(1, told[0][1] + 1)] and len(told) > 3
    told.clear()
    enlarger.enlarge(photo(9, 7), Choice(network, "mirrored"), lambda *share: told.append(share))
    assert told == [(1, 2), (2, 2)]


def test_transparency_is_downloaded_and_shown_on_white(enlarger, network, photo, make_image):
    image = make_image(9, 7)
    image.putalpha(Image.new("L", image.size, 0))
    done = enlarger.enlarge(photo(9, 7, image), Choice(network, scale=2))
    assert read_picture(done.png).alpha.getextrema() == (0, 0)
    for shown in (done.bicubic, done.result):
        assert shown.mode == "RGB" and shown.getextrema() == ((255, 255),) * 3


def test_what_is_read_otherwise_is_told(enlarger, network, photo, make_image, tmp_path):
    frames = make_image(9, 7), make_image(9, 7, 1)
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.png", icc_profile=b"garbage")
    told = [enlarger.enlarge(tmp_path / name, Choice(network, scale=1)).told for name in ("a.gif", "b.png")]
    assert told[0].endswith(" s. About the photo: of its 2 frames only the first is read")
    assert told[1].endswith(" s. About the photo: its colour profile is damaged: its colours are taken as sRGB")
    assert "About" not in enlarger.enlarge(photo(9, 7), Choice(network, scale=1)).told


def test_the_ending_of_a_name_does_not_matter(enlarger, network, photo):
    file = photo(9, 7)
    file = file.rename(file.with_suffix(".txt"))
    assert enlarger.enlarge(file, Choice(network, scale=1)).result.size == (9, 7)


@pytest.mark.parametrize(
    ("size", "scale", "match"),
    [
        ((40, 25), 2, "would be made with 80x50 pixels, 0.0 million"),
        ((40, 25), None, "40x25 pixels, more than the 32x20 that this network makes"),
        ((100, 100), 1, "would be made with 100x100 pixels"),
    ],
)
def test_sizes_are_refused(enlarger, network, photo, size, scale, match):
    with pytest.raises(UserError, match=match):
        enlarger.enlarge(photo(*size), Choice(network, scale=scale))


def test_a_result_of_just_as_many_pixels_is_made(enlarger, network, photo):
    assert enlarger.enlarge(photo(20, 25), Choice(network, scale=2)).result.size == (40, 50)


def test_large_files_are_refused_before_they_are_read(enlarger, tmp_path):
    file = tmp_path / "large.png"
    file.write_bytes(bytes(20_001))
    with pytest.raises(UserError, match=r"0\.0 MB.*takes 0\.02 MB at most"):
        enlarger.enlarge(file, Choice("photos"))


def test_large_images_are_refused_before_they_are_decoded(enlarger, photo, monkeypatch):
    """A file of few bytes may hold many pixels."""
    monkeypatch.setattr("core.web.enlarging.read_picture", None)
    with pytest.raises(UserError, match="3000x3000"):
        enlarger.enlarge(photo(0, 0, Image.new("1", (3000, 3000))), Choice("photos"))


def test_no_image(enlarger, tmp_path):
    file = tmp_path / "letter.txt"
    file.write_text("Dear Sir")
    with pytest.raises(DataError, match=r"letter\.txt: not an image"):
        enlarger.enlarge(file, Choice("photos"))


def test_memory_that_does_not_suffice(enlarger, network, photo, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("core.web.enlarging.enlarged", fail)
    with pytest.raises(UserError, match="memory of the server"):
        enlarger.enlarge(photo(9, 7), Choice(network))


def test_networks_are_those_whose_files_are_there(network, monkeypatch, tmp_path):
    there = FILES[network]
    for name in FILES:
        monkeypatch.setitem(FILES, name, there if name in ("faces", "photos") else tmp_path / "gone")
    assert networks() == ["photos", "faces"]
    for name in ("faces", "photos"):
        monkeypatch.setitem(FILES, name, tmp_path / "gone")
    with pytest.raises(UserError, match="checkpoints"):
        networks()


def test_presets_are_those_that_a_network_can_follow(network, monkeypatch, small_network, tmp_path):
    """A student of one call follows its own, unless a diffusion network stands behind it, as behind `faces`."""
    assert presets_of(network) == list(PRESETS)
    config = type("Config", (), {"phase": "distill"})()
    monkeypatch.setattr("core.web.enlarging.saved_config", lambda name: config)
    assert presets_of("photos") == ["instant", "mirrored"] and presets_of("faces") == list(PRESETS)


def test_the_limit_is_that_of_what_is_made(enlarger, trained_on, photo, monkeypatch):
    """A magnification that crops did not show is made at the usual one, and reduced."""
    _, prefix = trained_on(use_crop=True, r_resolution=32)
    monkeypatch.setitem(FILES, "photos", prefix.with_name("I3_E1_gen.safetensors"))
    assert enlarger.enlarge(photo(10, 10), Choice("photos", scale=1.5)).result.size == (15, 15)
    with pytest.raises(UserError, match="made with 80x80 pixels"):
        enlarger.enlarge(photo(20, 20), Choice("photos", scale=1.5))
