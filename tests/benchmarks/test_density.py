"""Density and growth at equal training: what is held equal, what is compared, and how reports are joined."""

import json
import math
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from torch import nn

from benchmarks import density
from benchmarks.helpers import equal_trainings
from benchmarks.helpers.equal_trainings import share_kept, variants_of
from benchmarks.helpers.equal_trainings_report import merge
from benchmarks.helpers.reports import start_log
from core.config import load_config
from core.errors import UserError
from core.metrics.perceptual_metrics import PerceptualMetrics
from data.demo import make_demo
from model import build_network
from sparse import Masker

STEPS, UPDATE_EVERY = 8, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("density")


@pytest.fixture(scope="module")
def script(pytestconfig):
    """script(*arguments) -> what it prints, of a run in a process of its own."""

    def run(*arguments):
        command = [sys.executable, str(pytestconfig.rootpath / "benchmarks" / "density.py"), *map(str, arguments)]
        options = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "cwd": pytestconfig.rootpath, "timeout": 300}
        done = subprocess.run(command, capture_output=True, text=True, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def first(script, folder):
    """(what is printed, the report, its file) of a share of the variants."""
    file = folder / "first.json"
    places = ("--json", file, "--plot", folder / "plots" / "first.png", "--save-images", folder / "sampled")
    printed = script("--small", "--device", "cpu", "--variants", "density-15,dense,static", *places)
    return printed, json.loads(file.read_text()), file


@pytest.fixture
def main(pytestconfig, monkeypatch, folder):
    """main(*arguments) in this process, with files in the folder."""

    def run(*arguments, json="main.json"):
        places = ("--json", folder / json, "--plot", folder / "main.png")
        monkeypatch.setattr(sys, "argv", ["density.py", *map(str, (*places, *arguments))])
        monkeypatch.chdir(pytestconfig.rootpath)
        density.main()
        return folder / json

    return run


@pytest.fixture
def second(main, folder):
    """The report of another share, and its file."""
    file = folder / "second.json"
    if not file.exists():
        main("--small", "--device", "cpu", "--variants", "rando?, gradient", json=file.name)
        assert not multiprocessing.active_children()  # no reader of images outlives its variant
    return json.loads(file.read_text()), file


def rows_of(report):
    return {row["variant"]: row for row in report["rows"]}


@pytest.mark.slow
def test_small_run(first, pytestconfig, folder):
    printed, report, _ = first
    rows = rows_of(report)
    assert list(rows) == ["density-15", "dense", "static"] and report["steps"] == STEPS
    network = build_network(load_config(pytestconfig.rootpath / "config" / "demo.yaml")["model"], initialised=False)
    weights = network.prunable_parameters().values()
    everything, prunable = (sum(p.numel() for p in some) for some in (network.parameters(), weights))
    active, bits = round(0.15 * prunable), sum(math.ceil(p.numel() / 8) + 8 * p.dim() for p in weights)
    assert rows["dense"]["density"] == 1 and rows["dense"]["growth"] is None
    assert rows["dense"]["bytes"] == 4 * everything
    for name in ("density-15", "static"):
        assert rows[name]["density"] == active / prunable
        assert rows[name]["bytes"] == 4 * (everything - prunable + active) + bits

    assert rows["static"]["kept"] == 1 and rows["static"]["growth"] is None
    assert 0 < rows["density-15"]["kept"] < 1 and rows["density-15"]["growth"] == "momentum"
    curves = {name: row["train_losses"] for name, row in rows.items()}
    assert all(len(curve) == STEPS for curve in curves.values())
    assert curves["static"][:UPDATE_EVERY] == curves["density-15"][:UPDATE_EVERY]  # until the first update
    assert curves["static"][-1] != curves["density-15"][-1]

    for name, row in rows.items():
        losses, images = np.array(row["losses"]["val"]), row["per_image"]["val"]
        assert len(losses) == 3 and len(images) == 2
        assert row["loss"] == pytest.approx(losses.mean()) and row["train_loss"] == row["train_losses"][-1]
        assert row["ssim"] == pytest.approx(np.mean([image["ssim"] for image in images]))
        difference = losses - rows["density-15"]["losses"]["val"]
        assert row["difference"] == pytest.approx(difference.mean())
        assert row["difference_error"] == pytest.approx(difference.std(ddof=1) / 3**0.5)
        assert row["minutes"] == pytest.approx(row["seconds"] / 60) and row["seconds"] > 0
        line = next(line for line in printed.splitlines() if line.startswith(f"{name} "))
        assert f"{row['loss']:.5f}" in line and f"{row['psnr']:.2f}" in line
        assert f"{name}: step {STEPS}/{STEPS}" in printed
    assert report["bicubic"].keys() >= {"psnr", "ssim"} and "bicubic_psnr" not in rows["dense"]
    assert len(np.unique(np.asarray(Image.open(folder / "plots" / "first.png")))) > 10


@pytest.mark.slow
def test_images_that_are_kept_are_those_that_were_measured(first, folder, tmp_path):
    make_demo(tmp_path, count=8)
    for name, row in rows_of(first[1]).items():
        files = sorted((folder / "sampled" / name / "val").iterdir())
        truths = [Image.open(tmp_path / "val" / file.name).resize((64, 64), Image.Resampling.BICUBIC) for file in files]
        pairs = [(np.asarray(truth), np.asarray(Image.open(file))) for truth, file in zip(truths, files, strict=True)]
        told = [image["psnr"] for image in row["per_image"]["val"]]
        assert [peak_signal_noise_ratio(*pair, data_range=255) for pair in pairs] == pytest.approx(told)


@pytest.mark.slow
def test_lpips_where_it_can_be_measured(first, main, monkeypatch, capsys):
    def lpips(image, reference):
        return float(np.abs(image.astype(float) - reference).mean())

    monkeypatch.setattr(equal_trainings, "load_perceptual_metrics", lambda *_: PerceptualMetrics(lpips, None, {}))
    (row,) = json.loads(main("--small", "--device", "cpu", "--variants", "dense", "--steps", "1").read_text())["rows"]
    assert (
        row["lpips"] == pytest.approx(np.mean([image["lpips"] for image in row["per_image"]["val"]]))
        and row["lpips"] > 1
    )
    printed = capsys.readouterr().out
    assert f"  {row['lpips']:.4f}  " in printed and printed.count("LPIPS") == 2  # a column, and that of bicubic
    assert "LPIPS" not in first[0]


@pytest.mark.slow
def test_shares_of_two_processes_are_joined(first, second, main, capsys):
    one, other = rows_of(first[1]), rows_of(second[0])
    assert all(row["difference"] is None for row in other.values())  # the reference is in the other report
    joined = json.loads(main("--merge", second[1], first[2], second[1]).read_text())
    rows = rows_of(joined)
    assert list(rows) == ["density-15", "dense", "random", "gradient", "static"]
    for name, row in (one | other).items():
        difference = np.subtract(row["losses"]["val"], one["density-15"]["losses"]["val"])
        assert rows[name]["difference"] == pytest.approx(difference.mean())
        assert {**rows[name], "difference": 0, "difference_error": 0} == {**row, "difference": 0, "difference_error": 0}
    together = [rows[name]["train_losses"][:UPDATE_EVERY] for name in rows if name != "dense"]
    np.testing.assert_allclose(together, [together[0]] * 4, rtol=1e-5)  # same weights, masks, images and noise
    assert {rows["random"]["growth"], rows["gradient"]["growth"]} == {"random", "gradient"}
    printed = capsys.readouterr().out
    assert f"random: not taken from {second[1]}" in printed and "gradient " in printed
    assert rows_of(json.loads(main("--merge", first[2]).read_text())) == one


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("steps", 9),
        ("config", "other"),
        ("images", 3),
        ("settings.train.optimizer.lr", 0.5),
        ("settings.model.unet.channel_multiplier", [1, 2]),
        ("data.train.augment", False),
        ("data.val.sha256", "0"),
    ],
)
def test_reports_of_other_settings_are_not_joined(first, tmp_path, path, value):
    _, report, file = first
    changed = json.loads(json.dumps(report))
    *sections, key = path.split(".")
    place = changed
    for section in sections:
        place = place[section]
    place[key] = value
    (tmp_path / "other.json").write_text(json.dumps(changed))
    with pytest.raises(UserError) as error:
        merge(density.COMPARISON, [file, tmp_path / "other.json"], start_log("density"))
    assert f"other.json: {path} is" in str(error.value) and f"{value} in the other" in str(error.value)


@pytest.mark.slow
def test_images_may_lie_elsewhere(first, tmp_path):
    _, report, file = first
    changed = json.loads(json.dumps(report))
    changed["data"]["val"] |= {"dataroot": "elsewhere", "num_workers": 7}
    (tmp_path / "other.json").write_text(json.dumps(changed))
    assert merge(density.COMPARISON, [file, tmp_path / "other.json"], start_log("density"))["rows"] == report["rows"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--small", "--variants", "dense,rigl*"], "--variants rigl*"),
        (["--small", "--steps", "0"], "--steps"),
        (["-c", "nowhere.yaml"], "nowhere.yaml"),
        (["--small", "--save-images", "pyproject.toml"], "cannot write into pyproject.toml"),
        (["--merge", "nowhere.json"], "nowhere.json"),
        (["--merge", "pyproject.toml"], "pyproject.toml: not JSON"),
        pytest.param(
            ["--small", "--variants", "static", "--steps", "2", "--set", "lr=1e30"],
            "no variant could be measured: the",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_input_is_one_line(main, capsys, arguments, told):
    with pytest.raises(SystemExit) as stopped:
        main(*arguments, json="none.json")
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and told in error and len(error.splitlines()) == 1, error


# ---------------------------------------------------------------------------------------------------------------------


def test_variants():
    assert variants_of(density.COMPARISON, "dense, density-[15]*") == [
        "density-5",
        "density-10",
        "density-15",
        "density-50",
        "dense",
    ]
    assert variants_of(density.COMPARISON, "*") == list(density.VARIANTS) and len(density.VARIANTS) == 11
    assert density.REFERENCE in density.DENSITIES


@pytest.mark.parametrize(
    ("rule", "kept"), [("random", True), ("gradient", True), ("momentum-in-layer", True), ("random-moved", False)]
)
def test_which_rules_keep_the_share_of_every_layer(rule, kept):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(10, 200), nn.ReLU(), nn.Linear(200, 50))
    optimizer = torch.optim.Adam(network.parameters())
    options = {**density.VARIANTS[rule], "density": 0.3, "init": "erdos_renyi", "update_every": 1}
    assert options.pop("enabled")
    masker = Masker(network, optimizer, **options)
    before, masks = masker.densities(), {name: mask.clone() for name, mask in masker.masks.items()}
    assert before["0.weight"] > 2 * before["2.weight"]
    for _ in range(4):
        optimizer.zero_grad()
        network(torch.randn(32, 10)).square().mean().backward()
        optimizer.step()
        assert masker.step() is not None
    assert (masker.densities() == pytest.approx(before, rel=1e-3)) == kept
    assert share_kept(masks, masker.masks) < 0.9
