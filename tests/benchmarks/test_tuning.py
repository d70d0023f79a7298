"""Settings of a training compared: changes are made, stages follow each other, seeds differ."""

import json
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks import tuning
from benchmarks.helpers.comparison import Variant

CHANGES = {
    "seed-1": {"train.seed": 1},
    "lr-0": {"train.optimizer.lr": 1e-12, "train.warmup": 0},
    "ema-0": {"train.ema_scheduler.ema_decay": 0.0},
    "half-twice": {"datasets.train.batch_size": 1, "train.n_iter": 16},
    "stages": {"first": {"train.continuous_scale": True}, "until": 0.5},
    "stages-alike": {"first": {"train.print_freq": 7}, "until": 0.5},
}


@pytest.fixture(scope="module")
def start(pytestconfig, tmp_path_factory):
    """start(*arguments, changes=CHANGES) -> the report; its picture is at report["picture"]."""

    def run(*arguments, changes=CHANGES):
        folder = tmp_path_factory.mktemp("tuning")
        (folder / "changes.yaml").write_text(yaml.safe_dump(changes, sort_keys=False))
        places = {"--changes": folder / "changes.yaml", "--json": folder / "a.json", "--plot": folder / "a.png"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["tuning.py", *map(str, (*sum(places.items(), ()), *arguments))])
            patch.chdir(pytestconfig.rootpath)
            tuning.main()
        return json.loads((folder / "a.json").read_text()) | {"file": folder / "a.json", "picture": folder / "a.png"}

    return run


@pytest.fixture(scope="module")
def trained(start):
    """{name: row} of all changes, at one size of image, and the report."""
    report = start("--small", "--device", "cpu", "--set", "train.continuous_scale=false")
    return {row["variant"]: row for row in report["rows"]}, report


@pytest.mark.slow
def test_each_change_is_made(trained):
    rows, report = trained
    assert list(rows) == ["reference", *CHANGES] and report["benchmark"] == "tuning"
    curves = {name: row["train_losses"] for name, row in rows.items()}
    assert rows["reference"]["changes"] == {} and rows["reference"]["difference"] == 0
    assert all(rows["seed-1"]["train_losses"][n] != curves["reference"][n] for n in range(8))
    assert curves["lr-0"][0] == curves["reference"][0] and curves["lr-0"][-1] > curves["reference"][-1]
    assert curves["ema-0"] == curves["reference"]  # the same training, averaged otherwise
    assert rows["ema-0"]["loss"] != rows["reference"]["loss"]
    assert rows["half-twice"]["changes"] == CHANGES["half-twice"] and len(curves["half-twice"]) == 10


@pytest.mark.slow
def test_a_first_stage_changes_the_first_steps_alone(trained):
    rows, _ = trained
    assert (rows["stages"]["first"], rows["stages"]["until"]) == ({"train.continuous_scale": True}, 0.5)
    assert rows["stages"]["train_losses"] != rows["reference"]["train_losses"]
    assert len(rows["stages"]["train_losses"]) == 8


@pytest.mark.slow
def test_two_stages_alike_are_one(trained):
    rows, _ = trained
    staged, whole = rows["stages-alike"], rows["reference"]
    assert staged["train_losses"] == pytest.approx(whole["train_losses"], rel=1e-5)
    assert staged["loss"] == pytest.approx(whole["loss"], rel=1e-5) and staged["kept"] == whole["kept"] < 1


@pytest.mark.slow
def test_losses_are_paired_and_shown(trained):
    rows, report = trained
    for row in rows.values():
        difference = np.subtract(row["losses"]["val"], rows["reference"]["losses"]["val"])
        assert row["difference"] == pytest.approx(difference.mean())
        assert row["difference_error"] == pytest.approx(difference.std(ddof=1) / len(difference) ** 0.5)
    assert len(np.unique(np.asarray(Image.open(report["picture"])))) > 10


@pytest.mark.slow
def test_shares_are_joined(trained, start, capsys):
    rows, report = trained
    share = start("--small", "--device", "cpu", "--set", "train.continuous_scale=false", "--variants", "ema-0")
    assert share["rows"][0]["difference"] is None and Image.open(share["picture"]).width > 1000
    joined = start("--merge", share["file"], report["file"])
    assert [row["variant"] for row in joined["rows"]] == ["reference", *CHANGES]
    assert joined["rows"][3]["difference"] == pytest.approx(rows["ema-0"]["difference"], rel=1e-3)
    assert f"ema-0: not taken from {report['file']}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"a": 3}, "changes.yaml: a: must be keys of a config"),
        ({"a": {"train.optimiser.lr": 1}}, "variant a: unknown key train.optimiser"),
        ({"a": {"train.optimizer.lr": "fast"}}, "variant a: train.optimizer.lr"),
        ({"a": {"first": {"train.seed": 1}}}, "changes.yaml: a: `first` and `until` go together"),
        ({"a": {"train.seed": 1, "until": 0.5}}, "changes.yaml: a: `first` and `until` go together"),
        ({"a": {"first": {"train.seed": 1}, "until": 1.0}}, "changes.yaml: a: until is 1.0"),
        ({"a": {"first": "seed", "until": 0.5}}, "changes.yaml: a: first must be keys"),
        ({"reference": {"train.seed": 1}}, "changes.yaml: reference is the config as it is"),
        (
            {"a": {"train.seed": 1}, "b": {"first": {"datasets.train.weights": {"x*": 0}}, "until": 0.5}},
            "variant b: datasets.train.weights: no image",
        ),
    ],
)
def test_bad_changes_are_one_line(start, capsys, changes, told):
    with pytest.raises(SystemExit) as stopped:
        start("--small", changes=changes)
    printed, error = capsys.readouterr()
    assert stopped.value.code == 2 and told in error and len(error.splitlines()) == 1, error
    assert not printed  # before any training


def test_the_changes_of_the_project(pytestconfig):
    variants = tuning.read_variants(pytestconfig.rootpath / tuning.CHANGES)
    assert next(iter(variants)) == "reference" and variants["reference"] == Variant({})
    assert variants["data-all-first"] == Variant({}, {"datasets.train.weights": {}}, 0.4)
    assert variants["seed-2"] == Variant({"train.seed": 2})
