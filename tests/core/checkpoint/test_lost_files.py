"""Folders of checkpoints of which network files are missing: what a kill leaves, and what was lost."""

import json
import re

import pytest

from core.checkpoint.lost_files import read_note, refuse_lost
from core.config import changed
from core.errors import UserError
from core.experiment import checkpoint_to_resume

WHOLE = ["I3_E1_gen.safetensors", "I3_E1_opt.safetensors"]
NEWER = "I20_E9_opt.safetensors"
LOST = [  # (files of the folder, what the note lists or None, the file that is told)
    (["I3_E1_opt.safetensors", NEWER], ["I3_E1", "I20_E9"], "I20_E9_gen.safetensors"),
    ([NEWER], ["I20_E9"], "I20_E9_gen.safetensors"),
    ([NEWER], [], "I20_E9_gen.safetensors"),
    (["I3_E1_opt.safetensors", NEWER], None, "I20_E9_gen.safetensors"),
    (["I20_E9_opt.pth"], None, "I20_E9_gen.pth"),
    (["I20_E9_gen.safetensors.bak"], None, "I20_E9_gen.safetensors"),
    ([], ["I3_E1", "I20_E9"], "written.json"),
    ([*WHOLE, NEWER], ["I3_E1", "I20_E9"], "I20_E9_gen.safetensors"),
]
OF_A_KILL = [  # (files, what the note lists)
    ([NEWER], None),
    ([*WHOLE, NEWER], None),
    ([*WHOLE, NEWER], ["I3_E1"]),
    ([*WHOLE, "I5_E1_opt.safetensors", NEWER], ["I3_E1"]),
]
NOTHING = [
    ([], None),
    (WHOLE, ["I3_E1"]),
    ([*WHOLE, "I1_E1_opt.safetensors"], ["I1_E1", "I3_E1"]),  # older: a kill while it was removed
    (WHOLE, ["I3_E1", "I20_E9"]),  # removed whole, to go back
    (["face_gen.pth", "notes.txt"], None),
]


@pytest.fixture
def folder(tmp_path):
    """folder(files, what the note lists or None) -> the folder of checkpoints of the experiment "small"."""

    def make(files, noted):
        folder = tmp_path / "experiments" / "small" / "checkpoint"
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).touch()
        if noted is not None:
            (folder / "written.json").write_text(json.dumps({"written": noted, "best": None}))
        return folder

    return make


@pytest.mark.parametrize("resume", ["auto", None])
@pytest.mark.parametrize(("files", "noted", "told"), LOST)
def test_what_was_lost_is_not_written_over(small_config, folder, files, noted, told, resume):
    path = folder(files, noted)
    with pytest.raises(UserError, match=re.escape(str(path / told))) as error:
        checkpoint_to_resume(small_config, resume)
    whole = "I3_E1_gen.safetensors" in files
    assert told == "written.json" or (f"-r {path / 'I3_E1'}" if whole else "--set name=NAME") in str(error.value)
    other = changed(small_config, {"name": "other"})
    assert checkpoint_to_resume(other, resume) is None


@pytest.mark.parametrize(("files", "noted"), OF_A_KILL)
def test_what_a_kill_leaves_is_told_in_a_line(small_config, folder, capsys, files, noted):
    path = folder(files, noted)
    assert checkpoint_to_resume(small_config, "auto") == (path / "I3_E1" if WHOLE[0] in files else None)
    err = capsys.readouterr().err
    assert err.startswith(f"warning: {path / 'I20_E9_gen.safetensors'} is missing") and err.count("\n") == 1


@pytest.mark.parametrize(("files", "noted"), NOTHING)
def test_of_all_else_nothing_is_told(folder, files, noted):
    assert refuse_lost(folder(files, noted)) == ""


def test_another_ending_of_the_file_that_is_missing(small_config, folder, published):
    """The training file of a .pth is a .pth."""
    prefix, *_ = published
    path = folder([], None)
    (path / "I7_E2_gen.pth").write_bytes(prefix.with_name("I7_E2_gen.pth").read_bytes())
    with pytest.raises(UserError, match=r"I7_E2_opt\.pth is missing"):
        checkpoint_to_resume(small_config, "auto")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"written": 3, "best": null}', '{"written": [], "best": [1]}'])
def test_a_damaged_note_lists_nothing(tmp_path, text):
    (tmp_path / "written.json").write_text(text)
    assert read_note(tmp_path / "written.json") == {"written": [], "best": None}
