"""Commands that work in one process, under torchrun."""

import importlib
import subprocess
import sys

import pytest

import infer
import sr

ONE_PROCESS = {  # command: what it cannot do without
    "core.calibrate": ["-r", "x"],
    "core.config.__main__": [],
    "core.demo": ["x"],
    "core.export": ["-r", "x", "-o", "x.safetensors"],
    "core.fixed_pattern": ["-r", "x", "--photos", "x", "-o", "x.safetensors"],
    "core.perceptual_network": ["--images", "x", "-o", "x.safetensors"],
    "core.report.__main__": ["x"],
    "core.score": ["x", "x"],
    "core.summary": ["x"],
    "core.web.__main__": [],
}


def told(name):
    return f"error: {name} works in one process, and here are 2: run it without torchrun"


def test_all_commands_of_core_are_tested(pytestconfig):
    root = pytestconfig.rootpath
    files = [file for file in (root / "core").rglob("*.py") if '__name__ == "__main__"' in file.read_text()]
    assert {".".join(file.relative_to(root).with_suffix("").parts) for file in files} == ONE_PROCESS.keys()


@pytest.mark.parametrize("command", ONE_PROCESS)
def test_one_process_is_refused_where_there_are_several(command, run_main, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = run_main(importlib.import_module(command).main, *ONE_PROCESS[command])
    name = f"python -m {command.removesuffix('.__main__')}"
    assert (code, out) == (2, "")
    assert err == told(name) + "\n"


def test_commands_that_share_their_work_out_are_not(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["sr.py", "-c", "x.yaml"])
    assert sr.parse_arguments().config == "x.yaml"
    assert infer.parse_arguments(["-i", "a", "-o", "b"]).input == ["a"]


@pytest.mark.slow
def test_under_torchrun_one_of_them_says_so(tmp_path, pytestconfig):
    target = tmp_path / "x.safetensors"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command = ["core.perceptual_network", "--images", str(tmp_path), "-o", str(target)]
    done = subprocess.run(
        [sys.executable, *launcher, *command], cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=60
    )
    assert done.returncode and not done.stdout and not target.exists()
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]  # torchrun's report has it too
    assert said == [told("python -m core.perceptual_network")]
    assert done.stderr.startswith(said[0]) and "exitcode  : 2" in done.stderr
