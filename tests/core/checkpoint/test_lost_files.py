"""Folders of checkpoints of which network files are missing: what a kill leaves, and what was lost."""

import json
import re

import pytest

from core.calibrate.__main__ import main as calibrate
from core.checkpoint.files import find_checkpoint
from core.checkpoint.lost_files import read_note, refuse_lost
from core.config import changed
from core.errors import UserError
from core.experiment import checkpoint_to_resume, checkpoint_to_validate
from core.export import main as export
from core.summary.__main__ import main as summary
from infer import main as infer

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


@pytest.mark.parametrize("find", [checkpoint_to_validate, lambda *_: find_checkpoint("experiments/small/checkpoint")])
def test_that_an_older_network_is_used_is_told_once(small_config, folder, capsys, monkeypatch, find):
    path = folder([*WHOLE, NEWER], None)
    monkeypatch.chdir(path.parents[2])
    config = changed(small_config, {"path.root": "experiments"})
    for _ in range(2):
        find(config, "auto")
    err, path = capsys.readouterr().err, path.relative_to(path.parents[2])
    assert err.startswith(f"warning: {path / 'I20_E9_gen.safetensors'} is missing, and {NEWER} is there: ")
    assert err.endswith(f"{path / 'I3_E1'} is used\n") and err.count("\n") == 1


@pytest.mark.parametrize(("rank", "lines"), [(0, 1), (1, 0)])
def test_of_several_processes_the_main_one_tells_it(folder, capsys, monkeypatch, rank, lines):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    find_checkpoint(folder([*WHOLE, NEWER], None))
    assert capsys.readouterr().err.count("\n") == lines


@pytest.mark.parametrize("files", [WHOLE, [*WHOLE, "I1_E1_opt.safetensors"]])
def test_of_the_newest_network_nothing_is_told(small_config, folder, capsys, files):
    find_checkpoint(folder(files, None))
    checkpoint_to_validate(small_config, None)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["infer", "about", "export", "calibrate", "summary"])
def test_all_commands_tell_which_network_they_use(run_main, small_checkpoint, make_image, tmp_path, command):
    for file in WHOLE:
        (tmp_path / file).write_bytes(small_checkpoint.with_name(file).read_bytes())
    (tmp_path / NEWER).touch()
    make_image(8, 8).save(tmp_path / "a.png")
    named, images = ("-r", tmp_path), ("-i", tmp_path / "a.png", "--device", "cpu")
    main, options = {
        "infer": (infer, (*named, *images, "-o", tmp_path / "out")),
        "about": (infer, (*named, "--about")),
        "export": (export, (*named, "-o", tmp_path / "new.safetensors")),
        "calibrate": (calibrate, (*named, *images, "--timesteps", 4)),
        "summary": (summary, (tmp_path,)),
    }[command]
    code, _, err = run_main(main, *options)
    (told,) = (line for line in err.splitlines() if "is missing" in line)
    assert code == 0 and told.endswith(f"{tmp_path / 'I3_E1'} is used")


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
