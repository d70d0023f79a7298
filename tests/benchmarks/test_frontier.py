"""The frontier of quality and time: what is compared with what, and a small run that is consistent."""

import json
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import frontier
from core.config import load_config
from core.distributed import Distributed
from core.errors import UserError
from model import build_network
from model.key_steps import EncoderChange


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
    config = load_config(pytestconfig.rootpath / "config" / "demo.yaml")
    config["sample"]["start"] = None
    network = build_network(config["model"], initialised=False).eval()
    return frontier.Setting(network, config, [], 1, Distributed(0, 1, torch.device("cpu")))


def test_small_run(start):
    printed, report, picture = start("--small")
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
    assert report["bicubic"].keys() >= {"psnr", "ssim", "lr_mse"} and "bicubic" in printed
    assert picture.size == (1000, 700) and len(np.unique(np.asarray(picture))) > 10


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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give a checkpoint with -r"),
        (["-r", "nowhere"], "nowhere: no such checkpoint"),
        (["--small", "--chains", "heun*"], "--chains heun*"),
        (["--small", "--chains", "nowhere.yaml"], "nowhere.yaml"),
        (["--small", "--images", "0"], "--images"),
        (["--small", "--data", "faces"], "datasets.faces"),
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
        assert frontier.frontier(points) == [not any(beats(other, point) for other in points) for point in points]
    assert frontier.frontier([(1, math.nan), (2, 3), (3, math.inf)]) == [False, True, True]
    assert frontier.frontier([]) == []


def test_default_chains():
    chains = frontier.default_chains()
    assert len(chains) == 4 * (1 + 3 * 4) + 1 + 5 * 4
    assert chains["ddim50-none"] == {"solver": "ddim", "steps": 50, "key_steps": "none", "decode": "every"}
    assert chains["ddpm2000-u50-ends"]["key_steps"] == "uniform:50" and chains["dpm++20-u5-first"]["decode"] == "first"
    picked = frontier.named_chains("ddim50*, ddpm2000-u10*")
    assert len(picked) == 13 + 3 and {"ddim50-auto5", "ddpm2000-u10-ends"} <= picked.keys()


def test_automatic_key_steps_are_as_many_as_uniform_ones(setting):
    distance = torch.rand(20, 20)
    timesteps = tuple(range(1999, 0, -100))
    setting.network.encoder_change = EncoderChange(timesteps, (distance + distance.T).fill_diagonal_(0))
    for start in (None, 0.995):
        setting.config["sample"]["start"] = start
        chains, left_out = frontier.chains_of("ddim50*", setting)
        assert not left_out and len(chains) == 13
        calls = {name: frontier.describe_chain(setting, settings) for name, settings in chains.items()}
        for k in (2, 5, 10):
            assert calls[f"ddim50-auto{k}"]["encoder_calls"] == calls[f"ddim50-u{k}"]["encoder_calls"]
        assert calls["ddim50-u5-ends"]["decoder_calls"] == 2 * calls["ddim50-u5"]["encoder_calls"]


def test_what_cannot_be_measured_is_left_out(setting):
    setting.config["model"]["beta_schedule"]["val"]["n_timestep"] = 40
    setting.network.schedule = build_network(setting.config["model"], initialised=False).schedule
    chains, left_out = frontier.chains_of("ddim50-none,ddim20-none,ddim20-auto5", setting)
    assert list(chains) == ["ddim20-none"] and list(left_out) == ["ddim50-none", "ddim20-auto5"]
    with pytest.raises(UserError, match="40 timesteps"):
        frontier.chains_of("ddim50-none", setting)


def test_rows_are_compared_with_the_same_chain_without_reuse():
    report = {"rows": []}
    for name, solver, keys, calls, seconds in [
        ("a-u5", "ddim", "uniform:5", 4, 1.0),
        ("b-none", "dpm++", "none", 20, 9.0),
        ("a-none", "ddim", "none", 20, 4.0),
    ]:
        settings = {"solver": solver, "steps": 20, "key_steps": keys, "decode": "every"}
        chain = {"chain": name, "settings": settings, "steps": 20, "encoder_calls": calls}
        frontier.add_row(report, chain, {"psnr": 20.0, "ssim": 0.5, "seconds": seconds, "bicubic_psnr": 19.0})
    compared = [(row["plain"], row["speed_up"], row["saved"], row["on_frontier"]) for row in report["rows"]]
    assert compared == [("a-none", 4, 75, True), ("b-none", 1, 0, False), ("a-none", 1, 0, False)]
    assert report["bicubic"] == {"psnr": 19.0} and "bicubic_psnr" not in report["rows"][0]
