"""Runs are read back from their files, wherever these are, and compared on the images that they share."""

import json

import pytest

from core.errors import UserError
from core.report.__main__ import main
from core.report.runs import read_runs
from data import DataError


def test_a_run_is_an_experiment_its_results_or_their_file(make_run):
    folder = make_run("A", 2)
    for path in (folder.parent, folder, folder / "metrics.json"):
        (run,) = read_runs([path])
        assert run.label == "A" and len(run.images) == 6
        assert all(image.files.keys() >= {"sr", "hr", "lr"} for image in run.images.values())


def test_pictures_are_found_where_a_folder_was_moved_to(make_run, tmp_path):
    moved = make_run("A", 2).rename(tmp_path / "elsewhere")
    (run,) = read_runs([moved])
    assert run.images["image0"].files["hr"] == moved / "hr" / "7_0_hr.png"


def test_runs_have_the_images_that_they_share(make_run):
    runs = read_runs([make_run("A", 2), make_run("B", 2, images=3)])
    assert [list(run.images) for run in runs] == [["image0", "image1", "image2"]] * 2


def test_results_of_tools_that_name_them_otherwise_are_compared(make_run, tmp_path):
    """Images belong together by the name of the true one, as core.score tells it."""
    folder = make_run("A", 2)
    score = {"mean": {}, "missing": {}, "of_sets": {}, "per_image": []}
    for n in range(6):
        score["per_image"].append({"name": f"image{n}_SwinIR.png", "hr": f"there/image{n}.png", "psnr": 30.0})
    (tmp_path / "score.json").write_text(json.dumps(score))
    runs = read_runs([folder, tmp_path / "score.json"])
    assert list(runs[1].images) == [f"image{n}" for n in range(6)]
    assert runs[1].images["image3"].name == "image3_SwinIR.png"


def test_labels_tell_runs_apart(make_run, tmp_path):
    folders = [make_run("A", 2), make_run("B", 2)]
    assert [run.label for run in read_runs(folders)] == ["A", "B"]
    report = json.loads((folders[1] / "metrics.json").read_text()) | {"config": "A"}
    (folders[1] / "metrics.json").write_text(json.dumps(report))
    assert [run.label for run in read_runs(folders)] == ["A", "B"]  # their folders
    (folders[1] / "other.json").write_text(json.dumps(report))
    files = [folders[1] / name for name in ("metrics.json", "other.json")]
    assert [run.label for run in read_runs(files)] == [str(file) for file in files]
    assert [run.label for run in read_runs(folders, ["x", "y"])] == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "no report"),
        ('{"per_image": [{}], "mean": {}, "missing": {}, "of_sets": {}}', "no report"),
        ('{"per_image": [], "mean": {}, "missing": {}, "of_sets": {}}', "has no images"),
    ],
)
def test_other_files_are_one_line(text, problem, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=problem):
        read_runs([tmp_path / "a.json"])


def test_what_is_not_there_is_one_line(make_run, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="File name too long"):
        read_runs([tmp_path / ("a" * 300)])
    with pytest.raises(UserError, match=r"no metrics\.json"):
        read_runs([tmp_path])
    with pytest.raises(UserError, match="in common"):
        read_runs([make_run("A", 2), make_run("B", 2, names="other{}")])


def test_command(make_run, tmp_path, capsys):
    folders = [str(make_run("A", 2)), str(make_run("B", 2))]
    main([*folders, "-o", str(tmp_path / "ab.html"), "--labels", "before,after"])
    assert "before" in (tmp_path / "ab.html").read_text() and str(tmp_path / "ab.html") in capsys.readouterr().out
    (tmp_path / "folder.html").mkdir()
    for wrong, problem in (
        (["--labels", "a,b,c"], "3 names for 2 runs"),
        (["-o", str(tmp_path / "folder.html")], "cannot write"),
        (["-o", str(tmp_path / "A" / "results" / "metrics.json")], "does not end in .html"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*folders, *wrong])
        assert stopped.value.code == 2 and problem in capsys.readouterr().err
