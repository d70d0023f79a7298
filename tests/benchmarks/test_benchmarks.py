"""The benchmarks run small on a CPU, and what they write is consistent."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import common
from benchmarks.training import FIGURES, STEPS, describe_figures, forward_flops, plain_operations
from core.config import load_config
from core.distributed import Distributed
from model import build_network
from model.diffusion import DiffusionLoss


@pytest.fixture
def benchmark(pytestconfig, tmp_path):
    """benchmark(script, *arguments, launcher=()) -> (its report, what it prints)."""

    def run(script, *arguments, launcher=()):
        file = tmp_path / "reports" / "report.json"
        small = ("--small", "--device", "cpu", "--json", str(file))
        done = start(pytestconfig, script, *small, *arguments, launcher=launcher)
        assert done.returncode == 0, done.stderr
        return json.loads(file.read_text()), done.stdout

    return run


def start(pytestconfig, script, *arguments, launcher=()):
    command = [sys.executable, *launcher, str(pytestconfig.rootpath / "benchmarks" / script), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=pytestconfig.rootpath, timeout=300
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_training(benchmark, processes):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2") if processes == 2 else ()
    report, printed = benchmark("training.py", "--set", "sparse.density=0.3", launcher=launcher)

    assert report["processes"] == processes and report["images_per_step"] == 2 * processes
    assert report["config"] == "demo" and "CPU" in report["device"] and report["versions"]["torch"] == torch.__version__
    assert report["density"] == round(0.3 * report["prunable"]) / report["prunable"]

    ways = report["steps"]
    assert list(ways) == [name for name in STEPS if processes == 2 or name != "alone"]
    for name, way in ways.items():
        seconds = way["seconds"]
        assert 0 < seconds["least"] <= seconds["median"] <= seconds["most"]
        assert way["steps_per_second"] * seconds["median"] == pytest.approx(1)
        assert way["images_per_second"] == pytest.approx(2 * processes / seconds["median"])
        assert way["ratio"] == pytest.approx(ways["plain"]["seconds"]["median"] / seconds["median"])
        assert way["label"] in printed
        if name == "continuous":
            assert way["tflops"] is None
        else:  # of each process: forward and backward of its two images
            assert way["tflops"] == pytest.approx(3 * 2 * report["forward_gflop_per_image"] / seconds["median"] / 1e3)

    figures = {name: figure["value"] for name, figure in report["figures"].items()}
    sparse, dense = (ways[name]["seconds"]["median"] for name in ("sparse", "dense"))
    assert figures["mask_cost"] == pytest.approx(100 * (sparse - dense) / sparse)
    assert figures["rate"] == ways["sparse"]["steps_per_second"]
    assert 0 < figures["mask_apply"] < figures["update"]
    assert figures["peak_memory"] is None and figures["matrix_peak"] is None  # of a GPU
    assert (figures["scaling"] is not None) == (processes == 2)
    assert all(figure["met"] is None for figure in report["figures"].values())  # the targets are not the CPU's


def test_data(benchmark):
    report, printed = benchmark("data.py", "--workers", "0,2")
    assert report["images"] == {"folder": 12, "lmdb": 12} and report["size"] == [16, 128]
    assert [(row["store"], row["workers"]) for row in report["rows"]] == [
        (store, workers) for store in ("folder", "lmdb") for workers in (0, 2)
    ]
    for row in report["rows"]:
        rate = row["images_per_second"]
        assert 0 < rate["least"] <= rate["median"] <= rate["most"] and f"{rate['median']:.0f}" in printed


@pytest.mark.parametrize(
    ("script", "arguments", "told"),
    [("training.py", ["--config", "nowhere.yaml"], "nowhere.yaml"), ("data.py", ["--dataroot", "nowhere"], "nowhere")],
)
def test_bad_input_is_one_line(pytestconfig, script, arguments, told):
    done = start(pytestconfig, script, *arguments)
    assert done.returncode == 2 and told in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


# ---------------------------------------------------------------------------------------------------------------------


def test_a_step_is_three_forward_passes(pytestconfig):
    """The operations of a step, which are told as three times those of the loss, counted as it is computed."""
    config = load_config(pytestconfig.rootpath / "config" / "demo.yaml")
    objective = DiffusionLoss(build_network(config["model"]), config["train"]["loss"])
    with FlopCounterMode(display=False) as counter:
        objective(torch.rand(1, 3, 16, 16), *torch.rand(2, 1, 3, 64, 64), torch.rand(1), 1.0).backward()
    assert counter.get_total_flops() == pytest.approx(3 * forward_flops(config), rel=0.01)


def test_plain_training_computes_the_same_loss(pytestconfig):
    config = load_config(pytestconfig.rootpath / "config" / "demo.yaml")
    objective = DiffusionLoss(build_network(config["model"]), config["train"]["loss"])
    images = torch.rand(2, 3, 16, 16), *torch.rand(2, 2, 3, 64, 64), torch.rand(2), 1.0
    expected = objective(*images)
    with plain_operations():
        assert objective(*images).item() == pytest.approx(expected.item(), rel=1e-5)


def test_measurements_take_turns():
    calls = []
    functions = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    seconds = common.time_in_turn(functions, 2, Distributed(0, 1, torch.device("cpu")))
    assert "".join(calls) == "ababab"  # one round of each that is not timed
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_table():
    assert common.table(["", "ms"], [["a step", "10.5"], ["b", "9"]]).splitlines() == [
        "          ms",
        "────────────",
        "a step  10.5",
        "b          9",
    ]


def test_targets():
    values = dict.fromkeys(FIGURES) | {"update": 150.0, "mask_cost": 2.1, "scaling": 93.0}
    met = {name: figure["met"] for name, figure in describe_figures(values, comparable=True).items()}
    assert met == dict.fromkeys(FIGURES) | {"update": True, "mask_cost": False, "scaling": True}
