import numpy as np
import pytest
from PIL import Image

from data import demo
from data.demo import FACE, main, make_demo


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_the_files(tmp_path, capsys):
    out = tmp_path / "new" / "demo"
    assert main(["--out", str(out), "--size", "48", "--count", "30"]) == 0
    assert "30 training" in capsys.readouterr().out
    assert sorted(path.name for path in (out / "train").iterdir()) == [f"{i:05d}.png" for i in range(30)]
    images = [Image.open(path) for path in out.rglob("*.png") if path.name != "unseen.png"]
    assert all(image.size == (48, 48) and image.mode == "RGB" for image in images)
    assert len(list((out / "val").iterdir())) >= 6
    truth = Image.open(out / "unseen_truth.png")
    assert np.array_equal(Image.open(out / "unseen.png"), truth.resize((12, 12), Image.Resampling.BICUBIC))


def test_the_same_arguments_give_the_same_files(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_demo(tmp_path / name, size=32, low=8, count=20, seed=seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert len(set(a.values())) == len(a)
    assert a["unseen.png"] == c["unseen.png"]
    assert a["train/00000.png"] != c["train/00000.png"]


def test_a_shorter_run_removes_the_longer_ones_images(tmp_path):
    make_demo(tmp_path, size=16, low=4, count=20)
    make_demo(tmp_path, size=16, low=4, count=5)
    assert len(list((tmp_path / "train").iterdir())) == 5


def test_training_never_sees_what_validation_is_made_of(tmp_path, monkeypatch):
    read = demo.read_photo

    def painted(name):
        photo = read(name)
        if name == "chelsea.png":
            return Image.new("RGB", photo.size, (255, 0, 255))
        if name == FACE.photo:
            photo.paste((255, 0, 255), FACE.box())
        return photo

    monkeypatch.setattr(demo, "read_photo", painted)
    make_demo(tmp_path, size=32, low=8, count=300)

    def magenta(name):
        pixels = np.asarray(Image.open(name)).astype(int)
        return ((pixels[..., 0] > 240) & (pixels[..., 1] < 15) & (pixels[..., 2] > 240)).mean()

    assert max(magenta(path) for path in (tmp_path / "train").iterdir()) == 0
    assert min(magenta(path) for path in (tmp_path / "val").iterdir()) == 1
    assert magenta(tmp_path / "unseen_truth.png") == 1


@pytest.mark.parametrize(("wrong", "told"), [(["--out", ""], "--out: is empty"), (["--size", "x"], "--size: invalid")])
def test_flags_that_are_wrong_are_refused_in_one_line(wrong, told, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(wrong) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: argument {told}") and message.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["--size=200", "--size=32 --low=40", "--count=0", "--count=10"])
def test_impossible_arguments(tmp_path, capsys, monkeypatch, wrong):
    monkeypatch.setattr("data.demo.MOST_CROPS", 9)
    assert main(["--out", str(tmp_path / "demo"), *wrong.split()]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {wrong.split()[0].replace('=', ' ')}")
    assert message.count("\n") == 1
    assert not (tmp_path / "demo").exists()
