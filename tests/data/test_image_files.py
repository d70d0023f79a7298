"""Which images are in a folder, and what is left out of it."""

import os
import socket

import pytest

from data import DataError
from data.image_files import find_images
from data.prepare_data import main


def test_links_to_folders_are_followed_once(tmp_path, photos):
    (outside := tmp_path / "outside").mkdir()
    (photos / "1.png").rename(outside / "1.png")
    for name in ("b", "a"):  # two links to one folder: the first by name counts
        (photos / name).symlink_to(outside)
    (outside / "back").symlink_to(photos)
    (photos / "sub").mkdir()
    (photos / "sub/up").symlink_to("..")
    (photos / "0").symlink_to(photos / "sub")  # what is there under its own path counts so
    (photos / "2.png").rename(photos / "sub/2.png")
    found = find_images(photos)
    names = {str(path.relative_to(photos)) for path in found.images}
    assert names == {"a/1.png", "sub/2.png", "3.png", "4.png", "5.png", "6.png", "7.png"} and not found.left_out


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read(tmp_path, photos):
    (photos / "closed").mkdir(mode=0)
    assert find_images(photos).left_out == [f"{photos / 'closed'}: cannot read this folder: Permission denied"]


def test_what_is_left_out(tmp_path, photos, monkeypatch):
    monkeypatch.chdir(photos)
    os.mkfifo("pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
    for name in ("raw.nef", "photo.HEIC", "drawing.svg", "notes.txt", "more.txt", "README"):
        (photos / name).touch()
    (photos / "gone").symlink_to("nowhere.png")
    (photos / "null.png").symlink_to("/dev/null")
    for name, end in (("loop.png", "loop.png"), ("one", "two"), ("two", "one")):
        (photos / name).symlink_to(end)
    found = find_images(photos)
    said = {line.removeprefix(f"{photos}/") for line in found.left_out}
    assert said == {
        "pipe.png: a pipe, no file", "socket.png: a socket, no file", "null.png: a device, no file",
        "gone: a link to nothing",
        *(f"{name}: a link that leads to itself" for name in ("loop.png", "one", "two")),
        *(f"{name}: images of this type are not read here" for name in ("raw.nef", "photo.HEIC", "drawing.svg")),
    }  # fmt: skip
    assert len(found.images) == 7
    assert found.describe_others() == "; 3 other files (.txt, without ending) not read"


def test_preparing_tells_what_is_left_out(tmp_path, photos, picture, capsys):
    os.mkfifo(photos / "pipe.png")
    picture(10, 20).save(photos / "small.png")
    picture(40, 40).save(photos / f"{'x' * 251}.bmp")
    picture(40, 40).save(photos / f"{'x' * 252}.bw", "SGI")
    (photos / "1.png").rename(photos / os.fsdecode(b"caf\xe9.png"))
    command = ["--path", str(photos), "--out", str(tmp_path / "out"), "--size", "8,24", "--n_worker", "2"]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert (
        out.splitlines()[-1]
        == f"{tmp_path}/out_8_24: 9 images, 9 of them new; 2 file(s) left out; 1 smaller than 24 pixels and enlarged"
    )
    assert len(err.splitlines()) == 3
    for told in (
        "pipe.png: a pipe, no file",
        "xxx.bw: cannot write",
        f"enlarged: {photos}/small.png has 10x10 pixels, fewer than 24",
    ):
        assert told in err
    assert b"0caf\xe9.png" in {os.fsencode(file.name) for file in (tmp_path / "out_8_24/hr_24").iterdir()}
    assert main([*command, "--strict"]) == 2 and "pipe.png" in capsys.readouterr().err


def test_a_root_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"cannot read folder .*gone: no such file"):
        find_images(tmp_path / "gone")
