"""The change of features along a chain: what is measured, against another way to find it, and a small run."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import feature_similarity as script
from benchmarks.helpers import feature_similarity
from core.calibrate.calibration import LRImage
from core.calibrate.calibration import measure as calibrate
from core.checkpoint.files import TrainingState, load_network, save_checkpoint
from core.config import load_config
from model import build_network
from model.blocks import ResidualBlock
from model.sampler import SamplingPlan, sample
from model.sampling.calibration import Feature, chain_features, cosine_similarity, relative_distance

LEVELS = ["full size", "1/2", "1/4"]  # of the demo's network
PLACES = [
    *(("encoder", place) for place in ("", *LEVELS, "bottleneck")),
    *(("decoder", place) for place in ("", *reversed(LEVELS))),
]


@pytest.fixture(scope="module")
def config(pytestconfig):
    return load_config(pytestconfig.rootpath / "config" / "demo.yaml")


@pytest.fixture(scope="module")
def network(config):
    torch.manual_seed(0)
    return build_network(config["model"]).eval()


@pytest.fixture(scope="module")
def checkpoint(config, network, tmp_path_factory):
    prefix = tmp_path_factory.mktemp("checkpoint") / "I7_E1"
    weights = network.state_dict()
    save_checkpoint(prefix, config, TrainingState(weights, weights, step=7))
    return prefix


@pytest.fixture
def lr_image():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(5)) * 1.6 - 0.8


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(*arguments) -> (exit code, stdout, stderr, the report or None, the picture or None)."""

    def run(*arguments):
        files = tmp_path / "out" / "a.json", tmp_path / "out" / "a.png"
        command = ["feature_similarity.py", "--device", "cpu", "--json", files[0], "--plot", files[1], *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        try:
            code = script.main() or 0
        except SystemExit as stop:
            code = stop.code
        report = json.loads(files[0].read_text()) if files[0].exists() else None
        return code, *capsys.readouterr(), report, Image.open(files[1]) if files[1].exists() else None

    return run


# ---------------------------------------------------------------------------------------------------------------------
# What is measured.


def test_features_are_those_that_sampling_computes(config, network, lr_image, monkeypatch):
    """Found by another way: all blocks of the plain network note what they return, and what is encoded is noted too."""
    steps, size, solver = 3, (32, 32), "ddpm"
    timesteps, features = chain_features(network, lr_image, size, steps, solver, seed=3, buckets=10**6)

    plain = build_network(config.model, fast=False).eval()
    plain.load_state_dict(network.state_dict())
    states, outputs, forward = [], {}, ResidualBlock.forward

    def note(block, *inputs):
        output = forward(block, *inputs)
        outputs.setdefault(block, []).append(output)
        return output

    class Noting(torch.nn.Module):
        schedule, prediction = plain.schedule, plain.prediction
        condition, decode = plain.condition, plain.decode

        def encode(self, *inputs):
            state = plain.encode(*inputs)
            states.append([*state.skips, state.bottleneck])
            return state

    monkeypatch.setattr(ResidualBlock, "forward", note)
    generator = torch.Generator().manual_seed(3)
    plan = SamplingPlan.parse("none", steps, plain.schedule.n_timestep)
    sample(
        Noting(), lr_image, size, plan, solver, start=float(plain.schedule.noise_levels[-1]),
        noise=lambda i, shape: torch.randn(shape, generator=generator),
    )  # fmt: skip

    blocks = [module for name, module in plain.named_modules() if module in outputs and name.startswith("decoder")]
    expected = [*zip(*states, strict=True), *(outputs[block] for block in blocks)]
    assert timesteps == plan.timesteps and len(features) == len(expected) == 7 + 6
    assert [feature.part for feature in features] == ["skip"] * 6 + ["bottleneck"] + ["decoder"] * 6
    for feature, tensors in zip(features, expected, strict=True):
        assert tuple(tensors[0].shape[2:]) == (32 >> feature.level,) * 2
        for i, a in enumerate(tensors):
            for j, b in enumerate(tensors):  # sketches so large keep all products of two steps
                products = (a * b).sum(dim=(1, 2, 3))
                assert torch.allclose((feature.steps[:, i] * feature.steps[:, j]).sum(dim=1), products, rtol=1e-4)
    assert relative_distance(features[-1].steps)[0, 2] > 1e-6
    assert not network.encoder._forward_hooks and not network.decoder.levels[0][0]._forward_hooks


def test_cosine_similarity():
    x = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0))
    x[:, 3] = 1e-3 * x[:, 2]
    similarity = cosine_similarity(x)
    expected = torch.nn.functional.cosine_similarity(x[:, :, None], x[:, None], dim=3).mean(dim=0)
    assert similarity.dtype == torch.float64 and torch.allclose(similarity.float(), expected, atol=1e-6)
    assert similarity[2, 3] == pytest.approx(1)
    assert torch.equal(cosine_similarity(0 * x), torch.ones(4, 4, dtype=torch.float64))


def test_halves_and_levels_are_means_of_their_features():
    generator = torch.Generator().manual_seed(0)
    parts = [("skip", 0), ("skip", 1), ("skip", 1), ("bottleneck", 1), ("decoder", 1), ("decoder", 0), ("decoder", 0)]
    features = [Feature(*part, torch.randn(1, 4, 9, generator=generator)) for part in parts]
    changes = [relative_distance(feature.steps) for feature in features]
    places = feature_similarity.by_place(features)
    expected = {
        ("encoder", ""): [0, 1, 2, 3],
        ("encoder", "full size"): [0],
        ("encoder", "1/2"): [1, 2],
        ("encoder", "bottleneck"): [3],
        ("decoder", ""): [4, 5, 6],
        ("decoder", "1/2"): [4],
        ("decoder", "full size"): [5, 6],
    }
    assert list(places) == list(expected)
    for place, members in expected.items():
        assert torch.allclose(places[place].change, sum(changes[n] for n in members) / len(members))


def test_rows_tell_steps_that_are_apart():
    """Of a state that moves one unit a step the change is the squared number of steps."""
    position = torch.arange(12, dtype=torch.float64)
    squared = (position[:, None] - position).square()
    (row,) = feature_similarity.rows_of({("encoder", ""): feature_similarity.Similarity(squared, 1 - squared / 2)})
    assert row["change"] == [1] * 11 and row["cosine"] == [0.5] * 11
    assert row["change_apart"] == {"1": 1, "2": 4, "5": 25, "10": 100}
    assert row["cosine_apart"] == {"1": 0.5, "2": -1, "5": -11.5, "10": -49}


def test_the_mean_over_images_is_what_key_steps_are_chosen_by(run, checkpoint, tmp_path):
    """Each image with a seed of its own; the encoder's change is the calibration's."""
    rng, images = np.random.default_rng(0), []
    for n in range(2):
        Image.fromarray(rng.integers(0, 256, (8, 8 + n, 3), dtype=np.uint8)).save(tmp_path / f"{n}.png")
        pixels = torch.from_numpy(np.array(Image.open(tmp_path / f"{n}.png"))).permute(2, 0, 1) / 127.5 - 1
        images.append(LRImage(str(n), pixels))
    code, stdout, _, report, _ = run("-r", checkpoint, "-i", tmp_path / "0.png", tmp_path / "1.png", "--steps", 4)
    network, config = load_network(checkpoint)
    settings = config.sample.replace(solver="ddim")
    change = calibrate(network, images, settings, config.magnification, 4)
    assert code == 0 and report["timesteps"] == list(change.timesteps) and report["step"] == 7
    assert report["rows"][0]["change"] == pytest.approx(change.distance.diagonal(1).tolist(), rel=1e-4)
    assert report["rows"][0]["change_apart"]["2"] == pytest.approx(float(change.distance.diagonal(2).mean()), rel=1e-4)
    assert [file.rsplit("/", 1)[1] for file in report["images"]] == ["0.png", "1.png"] and "2 images" in stdout


# ---------------------------------------------------------------------------------------------------------------------
# The command.


@pytest.mark.slow
def test_small_run(pytestconfig, tmp_path):
    script = pytestconfig.rootpath / "benchmarks" / "feature_similarity.py"
    file, picture = tmp_path / "a.json", tmp_path / "new" / "a.png"
    command = [sys.executable, script, "--small", "--device", "cpu", "--json", file, "--plot", picture]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=pytestconfig.rootpath, timeout=120
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert [(row["half"], row["place"]) for row in report["rows"]] == PLACES
    assert len(report["images"]) == 2 and len(report["timesteps"]) == 10 and report["checkpoint"] is None
    for row in report["rows"]:
        assert len(row["change"]) == len(row["cosine"]) == 9 and list(row["change_apart"]) == ["1", "2", "5"]
        assert row["change_apart"]["1"] == pytest.approx(np.mean(row["change"]))
        assert f"{row['change_apart']['5']:.2e}" in done.stdout
        assert 0 < row["change_apart"]["1"] < row["change_apart"]["5"] and 0.5 < min(row["cosine"]) <= 1
    assert Image.open(picture).width > 1000


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give a checkpoint with -r"),
        (["--small", "-i", "a.png"], "give a checkpoint with -r"),
        (["-r", "nowhere"], "nowhere: no such checkpoint"),
        (["-r", "{}", "-i", "nowhere.png"], "nowhere.png: no such file"),
        (["-r", "{}", "--data", "faces"], "--data faces"),
        (["-r", "{}", "-i", "{image}", "--solver", "heun"], "--solver"),
        (["--small", "--steps", "1"], "--steps 1"),
        (["--small", "--images", "0"], "--images"),
    ],
)
def test_bad_input_is_one_line(run, checkpoint, tmp_path, arguments, told):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    arguments = [argument.format(checkpoint, image=tmp_path / "a.png") for argument in arguments]
    code, stdout, stderr, report, _ = run(*arguments)
    assert (code, stdout, report) == (2, "", None)
    assert told in stderr and len(stderr.splitlines()) == 1, stderr


def test_out_of_memory_is_one_line(run, checkpoint, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried")

    monkeypatch.setattr(feature_similarity, "chain_features", fail)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    code, _, stderr, report, _ = run("-r", checkpoint, "-i", tmp_path / "a.png")
    assert code == 2 and report is None and "out of memory at 32x32" in stderr
