"""What README.md and docs/ tell to type works: every block of code runs here, with small stand-ins for its files.

A block that cannot run says after its language what it needs, as ```sh needs data. Commands of run.sh are looked up.
"""

import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from PIL import Image

from core.checkpoint.files import TrainingState, save_checkpoint
from core.config import changed, check_config
from core.config.keys import walk
from core.config.sections import Config
from core.score.__main__ import main as score
from core.shipped import FILES
from model import build_network
from tests.core.conftest import SMALL, published_state, wave

ROOT = Path(__file__).parents[2]
NEEDS = {"data", "GPUs", "network", "history", "gradio", "docker"}


class Block(NamedTuple):
    where: str
    language: str
    needs: str  # empty: it runs
    text: str


def blocks() -> Iterator[Block]:
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = file.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)(?: needs ([^\n]+))?\n(.*?)^```$", text, re.M | re.S):
            line = text[: match.start()].count("\n") + 1
            yield Block(f"{file.relative_to(ROOT)}:{line}", match[1], match[2] or "", match[3])


def commands(text: str) -> list[list[str]]:
    """The lines of a block for a shell as words, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory):
    """A folder in which the files of the project are, and small ones of the names that the documents use."""
    folder = tmp_path_factory.mktemp("documents")
    for entry in ROOT.iterdir():
        if entry.name not in ("experiments", "out", "dataset", ".git"):
            (folder / entry.name).symlink_to(entry)
    for name in ("folder", "FOLDER", "MINE", "lr_images", "SR", "HR", "LR"):
        (folder / name).mkdir()
        for n in range(2):
            side = 32 if name in ("FOLDER", "MINE", "SR", "HR") else 8
            Image.fromarray(wave(side, side, n)).save(folder / name / f"{n}.png")
    Image.fromarray(wave(8, 8, 0)).save(folder / "photo.png")
    torch.manual_seed(0)
    weights = build_network(check_config(SMALL)["model"]).state_dict()
    config = changed(check_config(SMALL), {"datasets.val.l_resolution": 8, "model.beta_schedule.val.n_timestep": 100})
    for name in ("CHECKPOINT", "shipped"):
        save_checkpoint(folder / name, config, TrainingState(weights, weights))
    torch.save(published_state(ROOT / "tests" / "golden"), folder / "PREFIX_gen.pth")
    for name in "AB":
        report = folder / "experiments" / name / "results" / "metrics.json"
        report.parent.mkdir(parents=True)
        score([str(folder / "SR"), str(folder / "HR"), "--json", str(report), "--no-report"])
    return folder


@pytest.fixture
def workplace(stand_ins, monkeypatch):
    """The stand-ins as the working directory, and a small network in place of each that ships."""
    monkeypatch.chdir(stand_ins)
    for name in FILES:
        monkeypatch.setitem(FILES, name, stand_ins / "shipped_gen.safetensors")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_WAIT_POLICY", os.environ.get("OMP_WAIT_POLICY", "PASSIVE"))
    return stand_ins


def run(words, monkeypatch):
    """What a shell does with the words, in this process."""
    if words[:2] == ["sh", "run.sh"]:
        known = (ROOT / "run.sh").read_text()
        assert len(words) == 2 or re.search(rf"^    {re.escape(words[2])}\) ", known, re.M), words
        return
    assert words[0] == "python", f"not a command that is tested here: {' '.join(words)}"
    module = words[1] == "-m"
    monkeypatch.setattr(sys, "argv", words[2:] if module else words[1:])
    try:
        if module:
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[1], run_name="__main__")
    except SystemExit as stop:
        assert not stop.code, f"{' '.join(words)} ended with {stop.code}"


def running(language):
    """The blocks of a language that run, as parameters."""
    return [pytest.param(each, id=each.where) for each in blocks() if each.language == language and not each.needs]


@pytest.mark.filterwarnings("ignore::RuntimeWarning:runpy")
@pytest.mark.parametrize("block", running("sh"))
def test_commands(block, workplace, monkeypatch):
    for words in commands(block.text):
        run(words, monkeypatch)


@pytest.mark.parametrize("block", running("python"))
def test_python(block, workplace):
    layer = torch.nn.Linear(4, 4)
    optimizer = torch.optim.Adam(layer.parameters())
    names = {"network": layer, "optimizer": optimizer, "loss": layer(torch.ones(1, 4)).sum()}
    exec(compile(block.text, block.where, "exec"), names)


@pytest.mark.parametrize("block", running("yaml"))
def test_yaml(block):
    config = {**SMALL, "datasets": {"train": {"l_resolution": 8, "r_resolution": 32, "batch_size": 1}}}
    for key, value in yaml.safe_load(block.text).items():
        path = next(path for path, _ in walk(Config) if path.rpartition(".")[2] == key)
        assert changed(check_config(config), {path: value})


def test_what_does_not_run_says_why():
    found = list(blocks())
    assert len(found) > 10
    for block in found:
        assert block.language in ("sh", "python", "yaml", "bibtex") or not block.language, (
            f"{block.where}: {block.language}"
        )
        assert not block.needs or set(re.split(r" and |, ", block.needs)) <= NEEDS, f"{block.where}: {block.needs}"


def test_flags_of_what_does_not_run_exist():
    """A command that needs data names scripts, modules and configs that there are."""
    for block in blocks():
        for words in commands(block.text) if block.language == "sh" and block.needs else []:
            for word in words:
                if re.fullmatch(r"(\w+/)*\w+\.(py|yaml)", word):
                    assert (ROOT / word).is_file(), f"{block.where}: {word}"
