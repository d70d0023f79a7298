"""Jitter and quarter turns, against pixels moved by hand; and the cache of decoded images."""

import sys
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from data import DataError, Draw, SRDataset, train_loader
from data.augmentation import Jitter, draw_jitter, draw_tone, place, tinted, turn
from data.stores import CachedStore


def pixels(image):
    return np.asarray(image, float)


@pytest.fixture
def spec(photos):
    return {"dataroot": str(photos), "l_resolution": 8, "r_resolution": 24}


# Placement.


def test_no_jitter_is_the_identity(picture):
    image = picture(41, 30)
    assert draw_jitter(Jitter(), Random(0)) == ((0.0, 0.0), 1.0, 0.0)
    assert np.array_equal(place(image, (0.0, 0.0), 1.0, 0.0), image)


def test_a_shift_moves_pixels_and_reflects_at_the_border(picture):
    image = picture(40, 30)
    moved = pixels(place(image, (5 / 40, -6 / 30), 1.0, 0.0))
    original = pixels(image)
    assert np.array_equal(moved[:24, 5:], original[6:, :35])
    assert np.array_equal(moved[:24, :5], original[6:, 5:0:-1])
    assert np.array_equal(moved[24:, 5:], original[28:22:-1, :35])


def test_a_scale_magnifies_about_the_centre(picture):
    """Twice as large: as the middle half of the image made twice as large; half as large: its middle is the image."""
    image = picture(40, 40)
    larger = pixels(place(image, (0.0, 0.0), 2.0, 0.0))
    expected = pixels(image.resize((80, 80), Image.Resampling.BICUBIC).crop((20, 20, 60, 60)))
    assert np.abs(larger - expected).max() <= 1
    smaller = pixels(place(image, (0.0, 0.0), 0.5, 0.0))[10:30, 10:30]
    halved = pixels(image.resize((20, 20), Image.Resampling.BICUBIC))
    assert np.abs(smaller - halved)[2:-2, 2:-2].max() <= 1  # the antialiasing filter looks beyond the border


def test_a_shift_is_that_of_the_result(picture):
    """Magnified or not, what was in the centre is moved by that share of the image."""
    dot = Image.new("RGB", (81, 81))
    dot.putpixel((40, 40), (255, 255, 255))
    for scale in (1.0, 2.0):
        moved = pixels(place(dot, (20 / 81, -10 / 81), scale, 0.0))[:, :, 0]
        y, x = np.mgrid[:81, :81]
        centre = [(moved * axis).sum() / moved.sum() for axis in (x, y)]
        assert centre == pytest.approx([60, 30], abs=0.6)


def test_a_right_angle_is_a_quarter_turn(picture):
    image = picture(33, 33)
    turned = pixels(place(image, (0.0, 0.0), 1.0, 90.0))
    assert np.abs(turned - np.rot90(pixels(image))).max() <= 1
    for quarters in range(4):
        assert np.array_equal(pixels(turn(image, quarters)), np.rot90(pixels(image), quarters))


def test_nothing_is_left_empty():
    """Wherever a white image is placed, it is white to its corners."""
    white = Image.new("RGB", (32, 24), "white")
    how = Jitter(shift=0.5, scale=(0.4, 2.5), rotate=45)
    for seed in range(50):
        placed = place(white, *draw_jitter(how, Random(seed)))
        assert placed.size == (32, 24) and pixels(placed).min() == 255


def test_jitter_is_drawn_from_its_ranges():
    how = Jitter(shift=0.1, scale=(0.8, 1.2), rotate=10)
    drawn = [draw_jitter(how, Random(seed)) for seed in range(300)]
    for values, low, high in (
        ([shift[0] for shift, _, _ in drawn], -0.1, 0.1),
        ([shift[1] for shift, _, _ in drawn], -0.1, 0.1),
        ([scale for _, scale, _ in drawn], 0.8, 1.2),
        ([angle for _, _, angle in drawn], -10, 10),
    ):
        near = 0.05 * (high - low)
        assert low <= min(values) < low + near and high - near < max(values) <= high


def test_a_tone_is_a_gamma_and_a_gain_of_each_channel():
    picture = Image.new("RGB", (3, 2), (64, 128, 255))
    values = pixels(tinted(picture, 1.5, [1.1, 0.9, 1.2]))
    expected = [255 * min(gain * (v / 255) ** 1.5, 1) for gain, v in zip((1.1, 0.9, 1.2), (64, 128, 255), strict=True)]
    assert np.abs(values - np.array(expected)).max() <= 0.5
    assert np.array_equal(pixels(tinted(picture, 1, [1, 1, 1])), pixels(picture))


def test_a_tone_is_drawn_from_its_range():
    drawn = [draw_tone(0.3, Random(seed)) for seed in range(300)]
    for values, most in (([gamma for gamma, _ in drawn], 0.3), *([[g[c] for _, g in drawn], 0.15] for c in range(3))):
        assert 1 - most <= min(values) < 1 - 0.9 * most and 1 + 0.9 * most < max(values) <= 1 + most
    assert all(len(set(gains)) == 3 for _, gains in drawn)


# In the dataset.


def test_jitter_moves_training_images_alone(spec, monkeypatch):
    jittered = spec | {"jitter": {"shift": 0.2, "scale": [0.8, 1.2], "rotate": 10}}
    plain, moved = SRDataset(spec, train=True), SRDataset(jittered, train=True)
    first, second = moved[Draw(1, 3)], moved[Draw(1, 4)]
    assert not torch.equal(first["hr"], plain[Draw(1, 3)]["hr"]) and not torch.equal(first["hr"], second["hr"])
    assert torch.equal(first["hr"], moved[Draw(1, 3)]["hr"])
    assert torch.equal(moved[1]["hr"], plain[1]["hr"])  # nothing is drawn for an index
    assert torch.equal(SRDataset(jittered, train=False)[1]["hr"], SRDataset(spec, train=False)[1]["hr"])
    monkeypatch.setattr("data.dataset.draw_tone", None)  # nor is a tone drawn where there is none
    nowhere = SRDataset(spec | {"jitter": {}}, train=True)
    assert torch.equal(nowhere[Draw(1, 3)]["hr"], plain[Draw(1, 3)]["hr"])
    assert torch.equal(nowhere[Draw(1, 3)]["lr"], plain[Draw(1, 3)]["lr"])


def test_tone_changes_the_colours_of_training_images_and_nothing_moves(tmp_path, picture):
    """Each channel is changed by one increasing function: pixels keep their order."""
    picture(24, 24).save(tmp_path / "a.png")
    spec = {"dataroot": str(tmp_path), "l_resolution": 8, "r_resolution": 24}
    plain, tinted_too = SRDataset(spec, train=True), SRDataset(spec | {"jitter": {"tone": 0.3}}, train=True)
    before, after, again = plain[Draw(0, 3)]["hr"], tinted_too[Draw(0, 3)]["hr"], tinted_too[Draw(0, 4)]["hr"]
    assert not torch.equal(after, again)
    for b, a in zip(before, after, strict=True):
        assert (a.flatten()[b.flatten().argsort()].diff() >= 0).all() and not torch.equal(a, b)
    assert torch.equal(tinted_too[0]["hr"], plain[0]["hr"])  # nothing is drawn for an index


def test_jitter_makes_lr_of_the_moved_hr(tmp_path, picture):
    for folder, side in (("hr_24", 24), ("lr_8", 8)):
        (tmp_path / folder).mkdir()
        picture(side, side, seed=side).save(tmp_path / folder / "a.png")
    spec = {"dataroot": str(tmp_path), "l_resolution": 8, "r_resolution": 24, "jitter": {"shift": 0.3}}
    sample = SRDataset(spec, train=True)[Draw(0, 1)]
    levels = {key: ((sample[key].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy() for key in ("lr", "hr")}
    expected = Image.fromarray(levels["hr"]).resize((8, 8), Image.Resampling.BICUBIC)
    assert np.array_equal(levels["lr"], expected)


def test_rotate_gives_all_quarter_turns_and_with_augment_all_eight(tmp_path, picture):
    picture(24, 24).save(tmp_path / "a.png")
    spec = {"dataroot": str(tmp_path), "l_resolution": 8, "r_resolution": 24}

    def looks(**keys):
        images = SRDataset(spec | keys, train=True)
        samples = [images[Draw(0, seed)] for seed in range(80)]
        for sample in samples:
            means = torch.nn.functional.avg_pool2d(sample["hr"][None], 3)[0]
            assert (means - sample["lr"]).abs().max() < 0.35  # LR shows the same
        return {sample["hr"].numpy().tobytes() for sample in samples}

    still = SRDataset(spec, train=True)[Draw(0, 0)]["hr"].numpy()
    turns = {np.rot90(still, n, (1, 2)).tobytes() for n in range(4)}
    flips = {np.rot90(still[:, :, ::-1], n, (1, 2)).tobytes() for n in range(4)}
    assert looks(rotate=True) == turns
    assert looks(rotate=True, augment=True) == turns | flips
    assert looks(augment=True) == {still.tobytes(), np.ascontiguousarray(still[:, :, ::-1]).tobytes()}


# The cache.


def test_a_cache_changes_nothing(spec):
    options = {"use_crop": True, "augment": True, "rotate": True, "weights": {"3": 2, "4": 0}}
    plain, cached = SRDataset(spec | options, train=True), SRDataset(spec | options | {"cache_mb": 1}, train=True)
    for workers in (0, 2):
        for batch, other in zip(
            train_loader(plain, 3, seed=1), train_loader(cached, 3, seed=1, workers=workers), strict=True
        ):
            assert torch.equal(batch["hr"], other["hr"]) and torch.equal(batch["lr"], other["lr"])
            assert batch["name"] == other["name"]
            if batch["index"][0] == 0:
                break
    assert isinstance(cached.store, CachedStore) and isinstance(plain.store, type(cached.store.store))


def test_a_cache_keeps_what_fits_and_reads_the_rest(tmp_path, picture):
    """Images of 0.25 MB each, as Pillow holds them: one megabyte is for four."""
    for n in range(6):
        picture(250, 250, n).save(tmp_path / f"{n}.png")
    spec = {"dataroot": str(tmp_path), "l_resolution": 8, "r_resolution": 24, "use_crop": True, "cache_mb": 1}
    images = SRDataset(spec | {"weights": {"1": 0}}, train=True)
    images.fill_cache()
    for n in range(6):
        (tmp_path / f"{n}.png").unlink()
    assert [images[n]["name"] for n in range(4)] == ["0", "2", "3", "4"]
    with pytest.raises(DataError, match=r"5\.png: No such file"):
        images[4]


@pytest.mark.skipif(sys.platform != "linux", reason="readers are not forked")
def test_readers_share_the_cache(spec, photos):
    """What was decoded before they started is all that they need."""
    images = SRDataset(spec | {"cache_mb": 1}, train=True)
    loader = train_loader(images, 3, seed=1, workers=2)
    for photo in photos.iterdir():
        photo.unlink()
    assert len([batch for _, batch in zip(range(4), loader, strict=False)]) == 4


def test_validation_and_a_dataset_that_is_not_trained_on_cache_nothing(spec):
    assert not isinstance(SRDataset(spec | {"cache_mb": 1}, train=True).store, CachedStore)
    images = SRDataset(spec | {"cache_mb": 1}, train=False)
    images.fill_cache()
    assert not isinstance(images.store, CachedStore)
