"""Files are there whole or not at all."""

import os

import pytest

from data import DataError
from data.files import (
    make_writable,
    missing_folders,
    remove_empty,
    remove_unfinished,
    require_writable,
    write_atomically,
)


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, stage):
    write_atomically(tmp_path / "a.png", b"first")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if stage == "fsync" else ("pathlib.Path.replace",)), full)
    with pytest.raises(DataError, match=r"cannot write .*a\.png: No space left on device$"):
        write_atomically(tmp_path / "a.png", b"second")
    monkeypatch.undo()
    assert (tmp_path / "a.png").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_what_a_killed_writer_leaves_is_removed(tmp_path):
    write_atomically(tmp_path / "whole.png", b"whole")
    (tmp_path / ".0123.tmp").write_bytes(b"ha")
    remove_unfinished(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["whole.png"]
    remove_unfinished(tmp_path / "nowhere")


def test_folders_that_were_made_are_removed_while_they_are_empty(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there", target_is_directory=True)
    for target in ("there/a/b/c", "link/d/e", "new/../f//"):
        before, missing = sorted(tmp_path.rglob("*")), missing_folders(tmp_path / target)
        make_writable(tmp_path / target)
        assert sorted(tmp_path.rglob("*")) != before
        remove_empty(missing)
        assert sorted(tmp_path.rglob("*")) == before
    missing = missing_folders(tmp_path / "g" / "h" / "i")
    (make_writable(tmp_path / "g" / "h" / "i").parent / "mine.txt").write_text("")
    remove_empty(missing)
    assert [path.name for path in sorted((tmp_path / "g").rglob("*"))] == ["h", "mine.txt"]


def test_whether_a_file_can_be_written_leaves_nothing(tmp_path):
    (tmp_path / "there.json").write_text("kept")
    require_writable(tmp_path / "there.json")
    require_writable(tmp_path / "new" / "folder" / "x.json")
    assert [path.name for path in tmp_path.rglob("*")] == ["there.json"]
    assert (tmp_path / "there.json").read_text() == "kept"
    for name in ("there.json/x", "", 300 * "x"):
        with pytest.raises(DataError, match="cannot write"):
            require_writable(tmp_path / name)
