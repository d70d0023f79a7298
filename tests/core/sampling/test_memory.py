"""Too little memory of a GPU, which is not pretended here: work is done in smaller parts, and that is said."""

import copy
import gc
import logging
import re

import numpy as np
import pytest
import torch
from PIL import Image

from core.checkpoint.files import TrainingState, save_checkpoint
from core.config import changed, check_config
from core.processes import Processes
from core.sampling.super_resolution import Sampling
from core.validation import validate_all
from infer import main
from model import build_network
from tests.core.conftest import SMALL

LOG = logging.getLogger("test.memory")
SPARE = 640 * 1024**2  # bytes: workspaces of libraries, 32 MiB for each new stream
HALVED = r"out of memory with (\d+) {}: going on with (\d+)"


def free():
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture
def taken():
    """taken(work) -> (what it returns, the most bytes that tensors took, the most that torch held for them)."""

    def measure(work):
        free()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        result = work()
        return result, torch.cuda.max_memory_allocated() - before[0], torch.cuda.max_memory_reserved() - before[1]

    return measure


@pytest.fixture
def leave():
    """leave(bytes): of the GPU's memory this process gets so much more than it has now."""

    def limit(more):
        free()
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more) / total)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    free()


@pytest.fixture
def network_of(tmp_path):
    """network_of(attends) -> (a network, its config, the prefix of its checkpoint)."""

    def make(attends):
        config = copy.deepcopy(SMALL)
        deep = [1, 1, 1, 1] if attends else [1, 2]  # it attends where the image is an eighth as large
        config["model"]["unet"] |= {"channel_multiplier": deep, "attn_res": [], "mid_attention": attends}
        config["model"]["beta_schedule"]["train"] |= {"n_timestep": 40, "linear_end": 0.15}
        config["sample"] |= {"precision": "float32", "start": 0.6}
        config = check_config(config)
        torch.manual_seed(0)
        network = build_network(config.model).eval()
        weights = network.state_dict()
        save_checkpoint(tmp_path / "I3_E1", config, TrainingState(weights, weights, step=3))
        return network, config, tmp_path / "I3_E1"

    return make


@pytest.fixture
def infer(tmp_path, make_image, capsys):
    """infer(checkpoint, images, side, out, *options) -> stdout: so many images of `side` pixels, into the folder."""

    def run(checkpoint, images, side, out, *options):
        (tmp_path / "in").mkdir(exist_ok=True)
        for n in range(images):
            make_image(side, side, n).save(tmp_path / "in" / f"{n}.png")
        files = "-i", tmp_path / "in", "-o", tmp_path / out
        code = main([*map(str, ("-r", checkpoint, *files, "--device", "cuda", *options))])
        stdout, stderr = capsys.readouterr()
        assert code == 0, stderr
        return stdout

    return run


def halvings(text, of):
    """[(n, what it went on with)], each of which follows from the one before."""
    numbers = [(int(a), int(b)) for a, b in re.findall(HALVED.format(of), text)]
    assert all(after == before // 2 for before, after in numbers)
    assert all(numbers[n][1] == numbers[n + 1][0] for n in range(len(numbers) - 1))
    return numbers


def assert_same_images(folder, other):
    """...but for rounding, as the library has other kernels for other batches."""
    files = sorted(file.name for file in folder.iterdir())
    assert files and files == sorted(file.name for file in other.iterdir())
    for name in files:
        a, b = (np.asarray(Image.open(path / name)).astype(float) for path in (folder, other))
        assert np.square(a - b).mean() < 255**2 / 10**4.5, name  # 45 dB; of another seed it is 7


@pytest.mark.cuda
@pytest.mark.parametrize("graphs", ["--compile", "--no-compile"])
def test_batches_are_halved(network_of, infer, taken, leave, tmp_path, graphs):
    _, _, checkpoint = network_of(attends=True)
    options = 48, 8, "--size", "512", graphs

    def run(out, batch_size):
        return infer(checkpoint, *options[:2], out, *options[2:], "--batch-size", batch_size)

    said, _, held = taken(lambda: run("enough", 2))
    assert "out of memory" not in said
    leave(1.2 * held + SPARE)
    numbers = halvings(run("little", 48), "images at once")
    assert numbers[0] == (48, 24) and numbers[-1][1] > 1
    assert_same_images(tmp_path / "little", tmp_path / "enough")


@pytest.mark.cuda
def test_calls_of_the_decoder_are_halved(network_of, infer, taken, leave, tmp_path):
    """...of one image, by a network that allows no tiles."""
    _, _, checkpoint = network_of(attends=True)
    chain = "--size", "1280", "--steps", "20", "--key-steps", "0"

    def run(out, *options):
        return infer(checkpoint, 1, 16, out, *chain, *options)

    said, _, held = taken(lambda: run("enough", "--decode-batch", 1))
    assert "out of memory" not in said
    leave(1.2 * held + SPARE)
    assert halvings(run("little"), "decoder calls at once")
    assert_same_images(tmp_path / "little", tmp_path / "enough")


@pytest.mark.cuda
def test_one_image_is_made_in_tiles(network_of, infer, taken, leave, tmp_path):
    _, _, checkpoint = network_of(attends=False)

    def run(out):
        return infer(checkpoint, 1, 64, out, "--size", "2048")

    said, needed, _ = taken(lambda: run("enough"))
    assert "out of memory" not in said and "tiles" not in said
    leave(0.5 * needed)
    assert "out of memory: going on with tiles" in run("little")
    assert_same_images(tmp_path / "little", tmp_path / "enough")


@pytest.mark.cuda
def test_a_validation_halves_its_batches(network_of, taken, leave, tmp_path, make_image, caplog):
    network, config, _ = network_of(attends=True)
    (tmp_path / "truth").mkdir()
    for n in range(48):
        make_image(384, 384, n).save(tmp_path / "truth" / f"{n:02}.png")
    images = {"dataroot": str(tmp_path / "truth"), "l_resolution": 24, "r_resolution": 384}
    changes = {"path.root": str(tmp_path), **{f"datasets.val.{key}": value for key, value in images.items()}}
    network, processes = network.cuda(), Processes(0, 1, torch.device("cuda"))

    def psnr(batch_size):
        own = changed(config, changes | {"name": f"by{batch_size}", "datasets.val.batch_size": batch_size})
        sampling = Sampling.of(own.sample, network.schedule)
        report = validate_all(network, own, sampling, processes, 0, LOG)["val"]
        return [entry["psnr"] for entry in report["per_image"]]

    alone, _, held = taken(lambda: psnr(1))
    leave(1.2 * held + SPARE)
    with caplog.at_level(logging.INFO, LOG.name):
        together = psnr(48)
    assert halvings(caplog.text, "images at once")[0] == (48, 24)
    assert together == pytest.approx(alone, abs=0.1)
