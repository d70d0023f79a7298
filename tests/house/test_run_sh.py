"""run.sh as a newcomer meets it: a clean script, and one clear line where something is missing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sr
from core.phases import notices


def run(pytestconfig, *arguments, cwd, **environment):
    command = ["sh", str(pytestconfig.rootpath / "run.sh"), *arguments]
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def test_shellcheck(pytestconfig):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    scripts = [str(pytestconfig.rootpath / name) for name in ("run.sh", ".ci/run")]
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_unknown_command(pytestconfig, tmp_path):
    done = run(pytestconfig, "trian", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "trian" in done.stderr


@pytest.mark.parametrize("asked", ["--help", "-h", "help"])
def test_help_is_one_and_needs_no_python(pytestconfig, tmp_path, asked):
    (tmp_path / "sh").symlink_to("/bin/sh")
    (tmp_path / "dirname").symlink_to(next(p for p in (Path("/bin/dirname"), Path("/usr/bin/dirname")) if p.exists()))
    done = run(pytestconfig, asked, cwd=tmp_path, PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    commands = [line.split("  ")[0] for line in done.stdout.splitlines() if line.startswith("sh run.sh")]
    assert commands == ["sh run.sh", *(f"sh run.sh {name}" for name in ("infer", "demo", "test", "test-long"))]
    assert "usage" not in done.stdout and not any(line.startswith("#") for line in done.stdout.splitlines())


def test_help_and_readme_tell_the_same_times(pytestconfig):
    times = r"(\w+)(?: minutes)? on two cores, (?:or )?(\w+) with -m 'not slow'"
    told = [re.search(times, (pytestconfig.rootpath / name).read_text()) for name in ("run.sh", "README.md")]
    assert all(told) and told[0].groups() == told[1].groups()


def test_infer_is_infer_py(pytestconfig, tmp_path):
    done = run(pytestconfig, "infer", "--help", cwd=tmp_path, SMFDM_PYTHON=sys.executable)
    assert done.returncode == 0 and "usage: infer.py" in done.stdout


def test_nothing_that_the_demo_asks_for_is_without_effect(pytestconfig, monkeypatch):
    """No notice to a newcomer about what the project itself wrote."""
    monkeypatch.chdir(pytestconfig.rootpath)
    commands = re.findall(r'^ *"\$python" sr\.py (.*-c config/demo.*?)(?: #.*)?$', Path("run.sh").read_text(), re.M)
    assert len(commands) == 2
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["sr.py", *command.split()])
        arguments = sr.parse_arguments()
        assert notices(sr.config_of(arguments), arguments) == []


@pytest.mark.slow
def test_training_without_data_says_what_to_prepare(pytestconfig, tmp_path):
    options = ["--set", f"path.root={tmp_path}", "--set", "datasets.train.dataroot=no/FFHQ_16_128"]
    done = run(pytestconfig, *options, cwd=tmp_path, SMFDM_PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "no/FFHQ_16_128" in done.stderr and "data/prepare_data.py" in done.stderr


def test_python_that_is_too_old(pytestconfig, tmp_path):
    """No interpreter that is new enough on the PATH: one line, no traceback."""
    script = (pytestconfig.rootpath / "run.sh").read_text()
    (tmp_path / "run.sh").write_text(script)
    for name in ("sh", "dirname", "cat", "cksum", "cut"):
        (tmp_path / name).symlink_to(next(p for p in (Path("/bin", name), Path("/usr/bin", name)) if p.exists()))
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run(["/bin/sh", "run.sh", "demo"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: no Python 3.10")
    assert len(done.stderr.splitlines()) == 1
