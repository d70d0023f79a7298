"""The frontier of quality and time: what is compared with what, and a small run that is consistent."""

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.helpers import frontier_chains, frontier_report, trained_network
from core.config import PRESETS, changed, load_config
from core.errors import UserError
from core.processes import Processes
from core.report.json_files import write_json
from model import build_network
from model.sampling.group_decoding import decoded
from model.sampling.key_steps import EncoderChange
from model.sampling.plan import NAMED_SETS, SamplingPlan


@pytest.fixture
def start(pytestconfig, tmp_path):
    """start(*arguments) -> (what is printed, the report, the plot), of a run in a process of its own."""

    def run(*arguments, code=0):
        script, files = (
            pytestconfig.rootpath / "benchmarks" / "frontier.py",
            (tmp_path / "a.json", tmp_path / "b" / "a.png"),
        )
        command = [sys.executable, str(script), "--device", "cpu", "--json", str(files[0]), "--plot", str(files[1])]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=pytestconfig.rootpath,
            timeout=300,
        )
        assert done.returncode == code, done.stderr
        return done if code else (done.stdout, json.loads(files[0].read_text()), Image.open(files[1]))

    return run


@pytest.fixture
def setting(pytestconfig):
    config = changed(load_config(pytestconfig.rootpath / "config" / "demo.yaml"), {"sample.start": None})
    network = build_network(config["model"], initialised=False).eval()
    return trained_network.Setting(network, config, None, [], 1, Processes(0, 1, torch.device("cpu")))


@pytest.mark.slow
def test_small_run(start, tmp_path):
    printed, report, picture = start("--small", "--save", str(tmp_path / "saved"))
    rows = {row["chain"].removeprefix("ddim10-"): row for row in report["rows"]}
    assert list(rows) == ["none", "u5", "u5-ends", "u5-first"] and (report["images"], report["batch"]) == (3, 1)
    assert list(report["left_out"]) == ["ddim10-auto5"] and "core.calibrate" in printed
    calls = {name: (row["encoder_calls"], row["decoder_calls"]) for name, row in rows.items()}
    assert calls == {"none": (10, 10), "u5": (2, 10), "u5-ends": (2, 4), "u5-first": (2, 2)}

    plain = rows["none"]
    assert (plain["speed_up"], plain["saved"]) == (1, 0)
    for row in rows.values():
        assert row["plain"] == "ddim10-none" and row["chain"] in printed and f"{row['psnr']:.2f}" in printed
        assert row["speed_up"] == pytest.approx(plain["seconds"] / row["seconds"])
        assert row["saved"] == pytest.approx(100 * (1 - 1 / row["speed_up"]))
        assert len(row["per_image"]) == 3 and len(row["batch_seconds"]) == 2
        assert row["psnr"] == pytest.approx(np.mean([image["psnr"] for image in row["per_image"]]))
        for key, mark in (("psnr", "on_frontier"), ("ssim", "on_ssim_frontier")):
            points = [(other["seconds"], other[key]) for other in rows.values()]
            assert row[mark] == (not any(beats(point, (row["seconds"], row[key])) for point in points))
    assert report["bicubic"].keys() >= {"psnr", "ssim", "sharpness", "spectral_distance", "lr_mse"}
    assert "bicubic" in printed
    for plot in (picture, Image.open(tmp_path / "b" / "a_sharpness.png")):
        assert plot.width > 1000 and len(np.unique(np.asarray(plot))) > 10
    saved = {file.stem: np.asarray(Image.open(file)) for file in (tmp_path / "saved").iterdir()}
    assert saved.keys() == {f"ddim10-{name}" for name in rows}
    for name, row in rows.items():  # the last row of pictures: SR, HR
        sr, hr = (saved[f"ddim10-{name}"][-128:, left:][:, :128] / 255 for left in (-260, -128))
        assert -10 * np.log10(np.mean((sr - hr) ** 2)) == pytest.approx(row["per_image"][2]["psnr"])


@pytest.mark.slow
def test_chains_of_a_file_and_one_batch(start, tmp_path):
    chains = {"quick": {"solver": "dpm++", "steps": 3, "key_steps": "uniform:3", "decode": "first"}}
    (tmp_path / "chains.json").write_text(json.dumps(chains))
    arguments = (
        "--chains",
        str(tmp_path / "chains.json"),
        "--images",
        "2",
        "--batch",
        "4",
        "--set",
        "sample.consistency=0",
    )
    _, report, _ = start("--small", *arguments)
    (row,) = report["rows"]
    assert (row["chain"], row["encoder_calls"], row["decoder_calls"]) == ("quick", 1, 1)
    assert (row["plain"], row["saved"], row["on_frontier"]) == (None, None, True)
    assert row["settings"]["consistency"] == 0 and report["batch"] == 2 and len(row["batch_seconds"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give a checkpoint with -r"),
        (["-r", "nowhere"], "nowhere: no such checkpoint"),
        (["--small", "--chains", "heun*"], "--chains heun*"),
        (["--small", "--chains", "nowhere.yaml"], "nowhere.yaml"),
        (["--small", "--images", "0"], "--images"),
        (["--small", "--data", "faces"], "datasets.faces"),
        (["--small", "--save", "README.md"], "--save README.md"),
        (["--small", "--merge", "a.json"], "--merge measures nothing"),
        (["--merge", "nowhere.json"], "nowhere.json: cannot read it"),
        (["--merge", "config/ffhq_liifsr3_scaler_16_128.json"], "ffhq_liifsr3_scaler_16_128.json: "),
    ],
)
def test_bad_input_is_one_line(start, arguments, told):
    done = start(*arguments, code=2)
    assert told in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


# ---------------------------------------------------------------------------------------------------------------------


def beats(a, b):
    return a != b and a[0] <= b[0] and a[1] >= b[1]


def test_frontier_against_brute_force():
    draw = random.Random(0)
    for _ in range(300):
        points = [(draw.randint(1, 6), draw.randint(1, 6)) for _ in range(draw.randint(1, 12))]
        unbeaten = [not any(beats(other, point) for other in points) for point in points]
        assert frontier_report.frontier(points) == unbeaten
    assert frontier_report.frontier([(1, math.nan), (2, 3), (3, math.inf)]) == [False, True, True]
    assert frontier_report.frontier([]) == []


def test_default_chains():
    chains = frontier_chains.default_chains()
    short, long = 4 * 4 - 1, 2 * 4  # ways with K up to 10, of which `ends` at 2 is no other; with K = 20 and 50
    fast = 5 * (1 + short) + 4 + 3 * long - 3 + 6 + 3  # uniform:20 of 20; no auto10 of 10, 20 of 20, 50 of 50; named
    assert len(chains) == len(PRESETS) + 2 * fast + (1 + 5 * 4 - 1 + 8)
    assert all(chains[f"preset-{name}"] == settings for name, settings in PRESETS.items())
    assert all(chains[f"ddpm2000-{name}"]["key_steps"] == name for name in NAMED_SETS)
    assert chains["ddim50-none"] == {"solver": "ddim", "steps": 50, "key_steps": "none", "decode": "every"}
    assert chains["ddpm2000-u50-ends"]["key_steps"] == "uniform:50" and chains["dpm++20-u5-first"]["decode"] == "first"
    picked = frontier_chains.named_chains("ddim50*, ddpm2000-u10*")
    assert len(picked) == 16 + 7 + 6 + 3 and {"ddim50-auto5", "ddim50-50ls", "ddpm2000-u10-ends"} <= picked.keys()


def test_no_default_chain_computes_what_another_does():
    computed = {}
    for name, settings in frontier_chains.default_chains().items():
        if not name.startswith("preset-") and not settings["key_steps"].startswith(frontier_chains.LIKE):
            groups = SamplingPlan.parse(settings["key_steps"], settings["steps"], 2000).groups
            computed_steps = tuple(decoded(len(group), settings["decode"]) for group in groups)
            other = computed.setdefault((settings["solver"], groups, computed_steps), name)
            assert other == name


@pytest.mark.parametrize("start", [0.98, 0.99999])
def test_chains_that_begin_late(setting, start):
    setting = replace(setting, config=changed(setting.config, {"sample.start": start}))
    chains, left_out = frontier_chains.chains_of("ddpm2000-*", setting)
    assert set(left_out) == {f"ddpm2000-auto{k}" for k in (2, 5, 10, 20, 50)}
    executed = setting.network.schedule.timestep_of(start) + 1
    for name, sampling in chains.items():
        row = frontier_report.describe_chain(sampling)
        assert row["steps"] == executed < 2000 and 1 <= row["encoder_calls"] <= row["decoder_calls"] <= executed
        if name.removeprefix("ddpm2000-") in NAMED_SETS:
            keys = {0, *filter(NAMED_SETS[name.removeprefix("ddpm2000-")], range(executed))}
            assert row["encoder_calls"] == len(keys) and row["decoder_calls"] == executed


def test_automatic_key_steps_are_as_many_as_uniform_ones(setting):
    distance = torch.rand(20, 20)
    timesteps = tuple(range(1999, 0, -100))
    setting = replace(setting, encoder_change=EncoderChange(timesteps, (distance + distance.T).fill_diagonal_(0)))
    for start in (None, 0.995):
        setting = replace(setting, config=changed(setting.config, {"sample.start": start}))
        chains, left_out = frontier_chains.chains_of("ddim50*", setting)
        assert not left_out and len(chains) == 16 + 7 + 6
        calls = {name: frontier_report.describe_chain(sampling) for name, sampling in chains.items()}
        for k in (2, 5, 10, 20):
            assert calls[f"ddim50-auto{k}"]["encoder_calls"] == calls[f"ddim50-u{k}"]["encoder_calls"]
        assert calls["ddim50-u5-ends"]["decoder_calls"] == 2 * calls["ddim50-u5"]["encoder_calls"]


def test_what_cannot_be_measured_is_left_out(setting):
    setting = replace(setting, config=changed(setting.config, {"model.beta_schedule.val.n_timestep": 40}))
    setting.network.schedule = build_network(setting.config["model"], initialised=False).schedule
    chains, left_out = frontier_chains.chains_of("ddim50-none,ddim20-none,ddim20-auto5", setting)
    assert list(chains) == ["ddim20-none"] and list(left_out) == ["ddim20-auto5", "ddim50-none"]
    with pytest.raises(UserError, match="40 timesteps"):
        frontier_chains.chains_of("ddim50-none", setting)


def test_rows_are_compared_with_the_same_chain_without_reuse():
    report = {"rows": []}
    for name, solver, keys, calls, seconds in [
        ("a-u5", "ddim", "uniform:5", 4, 1.0),
        ("b-none", "dpm++", "none", 20, 9.0),
        ("a-none", "ddim", "none", 20, 4.0),
    ]:
        settings = {"solver": solver, "steps": 20, "key_steps": keys, "decode": "every"}
        chain = {"chain": name, "settings": settings, "steps": 20, "encoder_calls": calls}
        frontier_report.add_row(report, chain, {"psnr": 20.0, "ssim": 0.5, "seconds": seconds, "bicubic_psnr": 19.0})
    compared = [(row["plain"], row["speed_up"], row["saved"], row["on_frontier"]) for row in report["rows"]]
    assert compared == [("a-none", 4, 75, True), ("b-none", 1, 0, False), ("a-none", 1, 0, False)]
    assert report["bicubic"] == {"psnr": 19.0} and "bicubic_psnr" not in report["rows"][0]


# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def write_report(tmp_path):
    """write_report(name, {chain: (key steps, encoder calls, seconds, PSNR)}, **what else differs) -> its file."""

    def write(name, chains, **changes):
        report = dict.fromkeys(frontier_report.MERGED_IF_EQUAL) | {"benchmark": "frontier", "left_out": {}, "rows": []}
        report |= {"config": "small", "parameters": 1, "density": 0.15, "images": 4, "batch": 2, "device": "a GPU"}
        report |= {"dataset": {"name": "faces", "l_resolution": 8, "r_resolution": 32}, "settings": {"seed": 0}}
        for chain, (keys, calls, seconds, psnr) in chains.items():
            settings = {"solver": "ddim", "steps": 10, "key_steps": keys, "decode": "every"}
            row = {"chain": chain, "settings": settings, "steps": 10, "encoder_calls": calls, "decoder_calls": 10}
            measures = {"psnr": psnr, "ssim": 0.5, "sharpness": 0.8, "seconds": seconds, "bicubic_psnr": 19.0}
            frontier_report.add_row(report, row, measures)
        write_json(report | changes, tmp_path / name)
        return str(tmp_path / name)

    return write


A = {"ddim10-u5": ("uniform:5", 2, 1.0, 20.0), "mine": ("uniform:3", 4, 3.0, 19.0)}
B = {"ddim10-none": ("none", 10, 4.0, 22.0), "ddim10-u2": ("uniform:2", 5, 2.0, math.nan)}


@pytest.mark.slow
def test_merged_reports_are_compared_anew(start, write_report):
    a = write_report("one.json", A, left_out={"ddim10-none": "out of memory", "x": "too long"})
    _, report, picture = start("--merge", a, write_report("two.json", B))
    rows = {row["chain"]: (row["plain"], row["speed_up"], row["saved"], row["on_frontier"]) for row in report["rows"]}
    assert list(rows.items()) == [
        ("ddim10-none", ("ddim10-none", 1, 0, True)),
        ("ddim10-u2", ("ddim10-none", 2, 50, False)),
        ("ddim10-u5", ("ddim10-none", 4, 75, True)),
        ("mine", ("ddim10-none", pytest.approx(4 / 3), pytest.approx(25), False)),
    ]
    assert report["left_out"] == {"x": "too long"} and report["bicubic"] == {"psnr": 19.0}
    assert report["rows"][1]["psnr"] is None and picture.width > 1000


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images": 5}, "differ in images (4, 5)"),
        ({"batch": 1}, "differ in batch (2, 1)"),
        ({"device": "a CPU"}, "differ in device (a GPU, a CPU)"),
        ({"checkpoint": "other", "step": 7}, "differ in checkpoint (None, other), step (None, 7)"),
        ({"dataset": {"name": "cats", "l_resolution": 8, "r_resolution": 32}}, "differ in dataset.name (faces, cats)"),
        ({"rows": []}, "two.json: has no rows"),
        ({"benchmark": "sampling"}, "two.json: not a report of benchmarks/frontier.py"),
    ],
)
def test_reports_of_something_else_are_not_merged(write_report, changes, told):
    with pytest.raises(UserError) as error:
        frontier_report.merge([write_report("one.json", A), write_report("two.json", B, **changes)])
    assert told in str(error.value)


def test_a_chain_in_two_reports_is_not_merged(write_report):
    files = [write_report("one.json", A), write_report("two.json", B | {"ddim10-u5": A["ddim10-u5"]})]
    with pytest.raises(UserError, match=r"two.json: chain ddim10-u5 is in another"):
        frontier_report.merge(files)


def test_pictures_leave_out_noise_and_name_presets():
    rows = [{"ssim": ssim, "settings": settings} for ssim, settings in ((0.4, {}), (0.5, {}), (math.nan, {}))]
    assert frontier_report.shown_rows({"rows": rows, "bicubic": {"ssim": 0.5}}) == rows[1:]
    assert frontier_report.shown_rows({"rows": rows[:1], "bicubic": {"ssim": 0.5}}) == rows[:1]  # else nothing is left
    assert frontier_report.shown_rows({"rows": rows, "bicubic": {}}) == rows

    settings = {"seed": 3, "precision": "auto"}
    assert frontier_report.preset_of(settings | PRESETS["quality"]) == "quality"
    assert frontier_report.preset_of(settings | PRESETS["balanced"] | {"decode": "every"}) is None
    assert [frontier_report.preset_of(settings | PRESETS[name]) for name in PRESETS] == list(PRESETS)
    assert frontier_report.preset_of(settings | PRESETS["fast"] | {"mirrored": True}) is None
    old = {name: value for name, value in PRESETS["instant"].items() if name != "mirrored"}  # of a report of before it
    assert frontier_report.preset_of(settings | old) == "instant"
