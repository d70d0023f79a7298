"""Where packages are not installed, every command says in one line what to install."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from requirements import PACKAGES
from tests.house.test_help import COMMANDS

ROOT = Path(__file__).parents[2]
SCRIPTS = [[f"benchmarks/{file.name}"] for file in sorted((ROOT / "benchmarks").glob("*.py"))]


def commands_in(root):
    """Every module that can be run, as python is told to run it."""
    for file in sorted(root.rglob("*.py")):
        name = file.relative_to(root)
        if name.parts[0] != "tests" and not name.parts[0].startswith(".") and "\nif __name__ ==" in file.read_text():
            is_script = len(name.parts) == 1 or ["/".join(name.parts)] in [*COMMANDS, *SCRIPTS]
            yield ["/".join(name.parts)] if is_script else ["-m", ".".join(name.with_suffix("").parts)]


@pytest.mark.parametrize("command", commands_in(ROOT), ids=" ".join)
def test_a_line_says_what_to_install(command):
    """-S: as in an environment with nothing installed."""
    arguments = ["checkpoint"] if "sparse.inspect" in command else []
    done = subprocess.run([sys.executable, "-S", *command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: torch, numpy, ")
    assert f": {shlex.quote(sys.executable)} -m pip install -r " in done.stderr  # of this Python, not of another


def test_all_requirements_are_asked_for():
    named = set(re.findall(r"^([\w-]+)==", (ROOT / "requirements.txt").read_text(), re.M))
    distributions = packages_distributions()
    assert {distributions[name][0].lower().replace("_", "-") for name in PACKAGES} == named
