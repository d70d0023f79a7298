"""python -m core.summary: counts by hand, and memory beside what a process really takes."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from core.checkpoint.files import TrainingState, save_checkpoint
from core.config import check_config, load_config
from core.summary.__main__ import main
from core.summary.meta_memory import peak_bytes
from core.summary.summarizing import Described, describe, parts_of, sampling_bytes, training_bytes
from model import build_network
from tests.core.conftest import SMALL

MEGABYTE = 1 << 18  # floats


def told(path, capsys):
    main([str(path)])
    return capsys.readouterr().out


def test_a_config(pytestconfig, capsys):
    file = pytestconfig.rootpath / "config" / "demo.yaml"
    text = told(file, capsys)
    network = build_network(load_config(file).model)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    prunable = sum(parameter.numel() for name, parameter in network.named_parameters() if parameter.ndim > 1)
    (row,) = (line.split() for line in text.splitlines() if line.startswith("all "))
    assert row == ["all", f"{parameters:,}", f"{prunable:,}", f"{round(0.15 * prunable):,}", "15.0%"]
    for words in (
        "16x16 → 64x64",
        "conditioning, once",
        "decoder, 4 steps",
        "ddim (eta 0), 8 of",
        "training, 8 images",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_sparse_checkpoint(small_network, tmp_path, capsys):
    weights = small_network.state_dict()
    masks = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in small_network.prunable_parameters().items()}
    for n, mask in enumerate(masks.values()):
        mask.view(-1)[: n + 1] = True
    weights |= {name: weights[name] * mask for name, mask in masks.items()}
    save_checkpoint(tmp_path / "I3_E1", check_config(SMALL), TrainingState(weights, weights, masks, step=3))
    *parts, whole = parts_of(describe(str(tmp_path / "I3_E1")))
    assert whole.active == sum(range(1, len(masks) + 1))
    for field in ("parameters", "prunable", "active"):
        assert sum(getattr(part, field) for part in parts) == getattr(whole, field)
    assert [part.name for part in parts] == ["lr encoder", "conditioning", "embedding", "encoder", "decoder"]
    stored = load_file(tmp_path / "I3_E1_gen.safetensors")
    assert whole.active == sum(len(values) for name, values in stored.items() if name.endswith("::values"))
    assert "sampling, one image" in told(tmp_path / "I3_E1", capsys)


def test_what_is_neither_is_one_line(tmp_path, capsys):
    (tmp_path / "broken.yaml").write_text("name: x\n")
    for path, message in ((tmp_path / "none", "no such checkpoint"), (tmp_path / "broken.yaml", "broken.yaml: ")):
        with pytest.raises(SystemExit) as stop:
            main([str(path)])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line


# ---------------------------------------------------------------------------------------------------------------------
# Memory.


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_tensors_count_as_long_as_something_holds_them(device):
    def chain():
        x = torch.empty(MEGABYTE, device=device)
        for _ in range(10):
            x = x + 1  # two at once
        return x[::2].view(2, -1)  # a view takes none

    def kept():
        return [torch.empty(MEGABYTE, device=device) for _ in range(10)]

    def backward():
        x = torch.empty(MEGABYTE, device=device, requires_grad=True)
        y = x
        for _ in range(10):
            y = y.exp()  # keeps its result for the backward pass
        y.sum().backward()

    assert peak_bytes(chain) == 2 << 20
    assert peak_bytes(kept) == 10 << 20
    assert 12 << 20 <= peak_bytes(backward) <= (14 << 20) + 100  # x, ten results, and gradients


def test_meta_counts_what_a_cpu_would(small_network):
    """The same calls on real tensors."""
    x, level = torch.zeros(1, 3, 32, 32), torch.ones(1)
    with torch.no_grad():

        def group():
            condition = small_network.condition(torch.zeros(1, 3, 8, 8), (32, 32))
            return small_network.decode(small_network.encode(x, level, condition), level.expand(2, 1), condition)

        real = peak_bytes(group)
    config = check_config(SMALL)
    described = Described(build_network(config.model, initialised=False).to("meta"), config, {}, None)
    estimate = sampling_bytes(described) - 4 * sum(p.numel() for p in described.network.parameters())
    assert estimate == pytest.approx(real, rel=0.25)


TRAINING = """
import re, sys, torch
from core.config import load_config
from model import build_network
from model.diffusion import DiffusionLoss

def peak():  # ru_maxrss would begin with the memory of the process that started this one
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

torch.set_num_threads(1)
network = build_network(load_config(sys.argv[1]).model)
loss, hr = DiffusionLoss(network), torch.zeros(24, 3, 64, 64)
loss(torch.zeros(1, 3, 16, 16), hr[:1], hr[:1], torch.full((1,), 0.5), 1.0).backward()  # libraries have what they need
before = peak()
loss(torch.zeros(24, 3, 16, 16), hr, hr, torch.full((24,), 0.5), 1.0).backward()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_step_really_takes(pytestconfig):
    """The peak of a process in 24 images, beside that of one, is the estimate's within a third."""
    file = pytestconfig.rootpath / "config" / "demo.yaml"
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, file], cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True
    )
    described = describe(str(file))
    estimate = training_bytes(described, 24) - training_bytes(described, 1)
    assert estimate / 1.1 < int(done.stdout) < 1.4 * estimate
