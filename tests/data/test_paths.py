"""What is where a path leads, whatever the path."""

import os
import re
from pathlib import Path

import pytest

from data import DataError
from data.files import make_writable
from data.paths import is_file, is_folder, is_there, refuse_unseen, why_not_named, why_not_read, why_not_seen

ROOT = Path(__file__).parents[2]
LONG = "a" * 300


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A folder into which nobody may look; for root too, whom the system lets into each."""
    folder, stat = tmp_path / "closed", Path.stat

    def refused(path, **options):
        if folder in path.parents:
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    folder.mkdir()
    monkeypatch.setattr(Path, "stat", refused)
    return folder


@pytest.fixture
def places(tmp_path, closed):
    """{a path: why nothing is seen there}"""
    (tmp_path / "file.bmp").touch()
    for name, end in (("loop", "loop"), ("one", "two"), ("two", "one"), ("dead", "nowhere"), ("far", "file.bmp/x")):
        (tmp_path / name).symlink_to(end)
    return {
        tmp_path / "none": "no such file or folder",
        tmp_path / "none" / "x": "no such file or folder",
        tmp_path / "loop": "a link that leads to itself",
        tmp_path / "one": "a link that leads to itself",
        tmp_path / "loop" / "x": f"{tmp_path}/loop is a link that leads to itself",
        tmp_path / "dead": "a link to nothing",
        tmp_path / "far": "a link to nothing",
        tmp_path / "file.bmp" / "x" / "y": f"{tmp_path}/file.bmp is a file, not a folder",
        tmp_path / LONG: "File name too long",
        closed / "x": f"the folder {closed} is closed to you (permission denied)",
        Path("a\0b"): "embedded null byte",
    }


def test_why_nothing_is_seen(places, tmp_path):
    for path, why in places.items():
        assert not is_there(path) and not is_file(path) and not is_folder(path)
        assert why_not_seen(path) == why_not_read(path) == why
        if why == "no such file or folder":
            refuse_unseen(path)
        else:
            with pytest.raises(DataError, match=re.escape(f"--flag {path}: {why}; mend")):
                refuse_unseen(path, "--flag")
    assert is_folder(tmp_path) and is_file(tmp_path / "file.bmp") and why_not_seen(tmp_path) is None
    assert why_not_read(tmp_path) == "a folder, no file" and why_not_read(tmp_path / "file.bmp") is None


def test_a_folder_that_cannot_be_made_names_what_is_in_the_way(tmp_path):
    (tmp_path / "file.bmp").touch()
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.rglob("*"))
    in_the_way = {
        "file.bmp": "it is not a folder",
        "file.bmp/x/y": f"{tmp_path}/file.bmp is a file, not a folder",
        "loop/x": f"{tmp_path}/loop is a link that leads to itself",
        f"new/{LONG}": "File name too long",
    }
    for path, why in in_the_way.items():
        with pytest.raises(DataError, match=re.escape(f"cannot write into {tmp_path / path}: {why}; give another")):
            make_writable(tmp_path / path)
        assert sorted(tmp_path.rglob("*")) == before


def test_names_of_files(tmp_path):
    assert why_not_named(tmp_path / "new" / "a.png") is None
    assert why_not_named(tmp_path / "new" / LONG) == "File name too long"


def test_paths_are_asked_here_and_in_sparse_alone():
    """pathlib's own raise for some paths: `is_file`, `is_dir` and `exists` of a user's path end in a traceback."""
    asking = re.compile(r"(?<!entry)\.(is_file|is_dir|exists|is_symlink)\(")
    found = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for folder in ("core", "data", "model", "sparse", "benchmarks")
        for file in sorted((ROOT / folder).rglob("*.py"))
        for line in file.read_text().splitlines()
        if asking.search(line)
    ]
    assert not found


@pytest.mark.skipif(os.geteuid() == 0, reason="root looks into every folder")
def test_a_folder_that_is_closed(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    assert (
        why_not_seen(tmp_path / "closed" / "x") == f"the folder {tmp_path}/closed is closed to you (permission denied)"
    )
