"""Files are there whole or not at all."""

import os

import pytest

from data import DataError
from data.files import remove_unfinished, write_atomically


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
