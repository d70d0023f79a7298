"""Densities of layers over training: of a run that was resumed, of tables made here, and by hand."""

import itertools
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks import layer_density as script
from benchmarks.helpers import layer_density
from core.config import changed, load_config
from core.processes import Processes
from core.training.layer_history import LayerHistory
from core.training.trainer import Trainer
from data.demo import make_demo
from model import build_network


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(*arguments) -> (exit code, stdout, stderr, the report or None, the picture or None)."""

    def run(*arguments):
        files = tmp_path / "out" / "a.json", tmp_path / "out" / "a.png"
        command = ["layer_density.py", "--json", files[0], "--plot", files[1], *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        try:
            code = script.main() or 0
        except SystemExit as stop:
            code = stop.code
        report = json.loads(files[0].read_text()) if files[0].exists() else None
        return code, *capsys.readouterr(), report, Image.open(files[1]) if files[1].exists() else None

    return run


def write(folder, told, step=0):
    """A table with {step: {layer: density}}, of a run that continues at a step."""
    folder.mkdir(parents=True, exist_ok=True)
    history = LayerHistory(folder / "density.csv", step, is_main=True)
    for at, densities in told.items():
        history.add(at, densities)


# ---------------------------------------------------------------------------------------------------------------------
# A run.


@pytest.fixture(scope="module")
def trained(pytestconfig, tmp_path_factory):
    """(the folder of a run that was resumed, its trainer): updates at 2, 4 and 6, then anew from step 4, at 6 and 8."""
    folder = tmp_path_factory.mktemp("run")
    make_demo(folder, count=4)
    changes = ["datasets.train.batch_size=2", "train.save_checkpoint_freq=4", "sparse.update_every=2"]
    flags = {"datasets.train.dataroot": str(folder / "train"), "path.root": str(folder), "sparse.update_until": 1.0}
    config = load_config(pytestconfig.rootpath / "config" / "demo.yaml", changes, flags)
    config = changed(config, {"datasets": {"train": config.datasets.train}})
    log = logging.getLogger(os.devnull)
    for n_iter, resume in ((6, None), (8, folder / "demo" / "checkpoint" / "I4_E2")):
        config = changed(config, {"train.n_iter": n_iter})
        trainer = Trainer(config, Processes.from_environment("cpu"), log, resume)
        trainer.fit()
    return folder / "demo", trainer


@pytest.mark.slow
def test_a_resumed_run(trained, pytestconfig, tmp_path):
    folder, trainer = trained
    script, file = pytestconfig.rootpath / "benchmarks" / "layer_density.py", tmp_path / "a.json"
    done = subprocess.run(
        [sys.executable, script, folder, "--json", file, "--plot", tmp_path / "a.png"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(file.read_text())
    assert report["updates"] == [2, 4, 6, 8] and report["step"] == 8 and str(folder) in done.stdout
    assert report["checkpoint"] == str(folder / "checkpoint" / "I8_E4")

    masks, densities = trainer.masker.masks, trainer.masker.densities()
    layers = {layer["layer"]: layer for layer in report["layers"]}
    assert layers.keys() == densities.keys()
    for name, layer in layers.items():
        assert layer["weights"] == masks[name].numel()
        assert layer["density"][-1] == pytest.approx(densities[name], abs=1e-6)
        assert layer["checkpoint"] == pytest.approx(densities[name], abs=1e-9)

    *parts, whole = report["rows"]
    assert whole["density"] == pytest.approx([0.15] * 4, abs=1e-4) and whole["share"] == [1, 1, 1, 1]
    assert np.sum([part["share"] for part in parts], axis=0) == pytest.approx([1] * 4)
    first = next(part for part in parts if part["part"] == "LR encoder")
    inside = [mask for name, mask in masks.items() if name.startswith("lr_encoder.")]
    active, weights = sum(int(mask.sum()) for mask in inside), sum(mask.numel() for mask in inside)
    assert (first["layers"], first["weights"]) == (len(inside), weights)
    assert first["density"][-1] == pytest.approx(active / weights, abs=1e-6)
    assert first["share"][-1] == pytest.approx(active / sum(int(mask.sum()) for mask in masks.values()), abs=1e-6)
    assert f"{active / weights:.1%}" in done.stdout and f"{weights:,}" in done.stdout
    assert len(np.unique(np.asarray(Image.open(tmp_path / "a.png")))) > 50


@pytest.mark.slow
def test_without_a_checkpoint_parts_are_means_over_layers(trained, run):
    folder, _ = trained
    code, stdout, _, report, picture = run(folder / "logs")
    assert code == 0 and report["checkpoint"] is None and "weights" not in stdout.split("─")[0].splitlines()[-1]
    for row in report["rows"][:-1]:
        densities = [layer["density"] for layer in report["layers"] if layer["part"] == row["part"]]
        assert row["density"] == pytest.approx(np.mean(densities, axis=0))
        assert row["weights"] is None and row["share"] is None
    assert picture.width > 600


# ---------------------------------------------------------------------------------------------------------------------
# Tables.


def test_a_run_that_went_on_keeps_what_was_before(tmp_path):
    write(tmp_path, {10: {"b": 0.25, "a": 0.5}, 20: {"b": 0.125, "a": 0.625}, 30: {"b": 0.5, "a": 0.25}})
    write(tmp_path, {30: {"b": 0.75, "a": 0.0}, 40: {"b": 1.0, "a": 0.0}}, step=21)
    updates, densities = layer_density.read_densities(tmp_path / "density.csv")
    assert updates == [10, 20, 30, 40]
    assert list(densities.items()) == [("b", [0.25, 0.125, 0.75, 1.0]), ("a", [0.5, 0.625, 0.0, 0.0])]


def test_an_update_that_was_not_told_to_the_end_is_left_out(tmp_path):
    write(tmp_path, {10: {"a": 0.5, "b": 0.5}, 20: {"a": 0.25, "b": 0.75}})
    content = (tmp_path / "density.csv").read_text()
    for end in ("20,0.25,0.75\n", "0.25,0.75\n", "0.75\n"):
        (tmp_path / "density.csv").write_text(content.removesuffix(end))
        assert layer_density.read_densities(tmp_path / "density.csv") == ([10], {"a": [0.5], "b": [0.5]})


def test_parts_weigh_their_layers_by_size(run, tmp_path):
    """6 and 2 weights at 1/2 and 1: five of eight; and 4 in another part, all of them inactive at last."""
    write(tmp_path, {1: {"x.a.weight": 0.5, "x.b.weight": 1.0, "y.weight": 0.25}})
    write(tmp_path, {2: {"x.a.weight": 0.0, "x.b.weight": 0.5, "y.weight": 0.0}}, step=1)
    weights = {"x.a.weight": torch.zeros(2, 3), "x.b.weight": torch.tensor([[0.0, 3.0]]), "y.weight": torch.zeros(4, 1)}
    save_file(weights, tmp_path / "I9_E1_gen.safetensors")
    code, stdout, _, report, _ = run(tmp_path, "-r", tmp_path / "I9_E1")
    x, y, whole = report["rows"]
    assert code == 0 and (x["part"], y["part"], report["step"]) == ("x", "y", 9)
    assert (x["weights"], x["density"], x["share"], x["checkpoint"]) == (8, [5 / 8, 1 / 8], [5 / 6, 1], 1 / 8)
    assert (y["weights"], y["density"], y["share"], y["checkpoint"]) == (4, [1 / 4, 0], [1 / 6, 0], 0)
    assert whole["density"] == [6 / 12, 1 / 12] and "62.5%" in stdout and "83.3%" in stdout


def test_runs_that_went_on_are_joined(run, tmp_path):
    """Of 9 and 4 steps; the sizes are those of the last. 4 and 4 weights: 3 of 8 active at last."""
    for name, told, step in (("a", {2: (0.5, 0.5), 6: (0.75, 0.25)}, 9), ("b", {3: (1.0, 0.0)}, 4)):
        write(tmp_path / name, {update: {"x.weight": x, "y.weight": y} for update, (x, y) in told.items()})
        weights = {"x.weight": torch.tensor([[1.0, 1.0], [1.0, 0.0]]), "y.weight": torch.zeros(4, 1)}
        save_file(weights, tmp_path / f"I{step}_E1_gen.safetensors")
        _, _, _, report, _ = run(tmp_path / name, "-r", tmp_path / f"I{step}_E1")
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    code, stdout, _, report, picture = run("--join", tmp_path / "a.json", tmp_path / "b.json")
    x, y, whole = report["rows"]
    assert code == 0 and report["updates"] == [2, 6, 12] and report["step"] == 13 and picture.width > 600
    assert (x["density"], y["density"]) == ([0.5, 0.75, 1.0], [0.5, 0.25, 0.0]) and whole["density"] == [0.5] * 3
    assert (x["checkpoint"], y["checkpoint"], whole["checkpoint"]) == (3 / 4, 0, 3 / 8)
    assert f"{tmp_path / 'a'} + {tmp_path / 'b'}: 2 layers, 3 updates, from step 2 to 12" in stdout


def test_what_cannot_be_joined(run, tmp_path):
    write(tmp_path / "a", {1: {"x.weight": 0.5}})
    write(tmp_path / "b", {1: {"y.weight": 0.5}})
    for layer, name, step in (("x.weight", "a", 1), ("y.weight", "b", 2)):
        save_file({layer: torch.ones(2, 2)}, tmp_path / f"I{step}_E1_gen.safetensors")
        for file, arguments in ((name, ["-r", tmp_path / f"I{step}_E1"]), (f"{name}_alone", [])):
            _, _, _, report, _ = run(tmp_path / name, *arguments)
            (tmp_path / f"{file}.json").write_text(json.dumps(report))
    (tmp_path / "other.json").write_text("{}")
    for files, told in [
        (["a.json", "b.json"], "b.json: is of another network"),
        (["a.json", "a_alone.json"], "a_alone.json: has no checkpoint"),
        (["other.json"], "other.json: not a report of benchmarks/layer_density.py"),
        (["gone.json"], "gone.json: cannot read it"),
        (["a.json", "-r", "a"], "-r goes with the folder of a run"),
    ]:
        arguments = ["--join", *(tmp_path / file if file.endswith(".json") else file for file in files)]
        (tmp_path / "out" / "a.json").unlink(missing_ok=True)
        (tmp_path / "out" / "a.png").unlink(missing_ok=True)
        code, stdout, stderr, report, picture = run(*arguments)
        assert (code, stdout, report, picture) == (2, "", None, None)
        assert told in stderr and len(stderr.splitlines()) == 1, stderr


def test_parts_follow_the_network(pytestconfig):
    config = load_config(pytestconfig.rootpath / "config" / "demo.yaml")
    layers = build_network(config["model"], initialised=False).prunable_parameters()
    parts = layer_density.parts_of([*layers, "head.weight"])
    assert list(parts) == [
        "LR encoder", "conditioning", "noise embedding",
        "encoder, level 0", "encoder, level 1", "encoder, level 2", "encoder, middle",
        "decoder, level 2", "decoder, level 1", "decoder, level 0", "implicit upsamplers", "head",
    ]  # fmt: skip
    assert sorted(itertools.chain(*parts.values())) == sorted([*layers, "head.weight"])
    assert parts["encoder, level 0"][0] == "encoder.input.weight"
    assert parts["encoder, level 0"][-1] == "encoder.downsamples.0.weight"
    assert parts["decoder, level 2"][0].startswith("decoder.levels.0.0.")
    assert parts["decoder, level 0"][-1] == "decoder.output.weight"


def test_bad_input_is_one_line(run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "density.csv").write_bytes(b"\xff\xfe\x00")
    write(tmp_path / "empty" / "logs", {1: {"a": 0.5}})
    (tmp_path / "empty" / "logs" / "density.csv").write_text("step,a\n")
    write(tmp_path / "sparse", {1: {"a.weight": 0.5}})
    save_file({"other.weight": torch.zeros(2, 3)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_text("no tensors")
    for arguments, told in [
        ([tmp_path / "nowhere"], "no density.csv in it, or in its logs"),
        ([tmp_path / "other"], "not a table of densities"),
        ([tmp_path / "empty"], "tells of no update"),
        ([tmp_path / "sparse", "-r", tmp_path / "gone"], "no such checkpoint"),
        ([tmp_path / "sparse", "-r", tmp_path / "other.safetensors"], "layer a.weight"),
        (
            [tmp_path / "sparse", "-r", tmp_path / "broken.safetensors"],
            "broken.safetensors: not a whole safetensors file",
        ),
        ([], "experiments/NAME"),
    ]:
        code, stdout, stderr, report, picture = run(*arguments)
        assert (code, stdout, report, picture) == (2, "", None, None)
        assert told in stderr and len(stderr.splitlines()) == 1, stderr
