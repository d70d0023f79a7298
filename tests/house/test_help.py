"""Every command tells its options at once: nothing that takes long to import is there before the flags are read."""

import subprocess
import sys

import pytest

SLOW = {"torch", "gradio", "matplotlib", "tensorboard", "scipy"}
COMMANDS = [
    *(["sr.py"], ["infer.py"], ["data/prepare_data.py"], ["data/demo.py"]),
    *(
        ["-m", module]
        for module in (
            "core.config",
            "core.demo",
            "core.calibrate",
            "core.export",
            "core.fixed_pattern",
            "core.perceptual_network",
            "core.score",
            "core.report",
            "core.summary",
            "core.web",
            "sparse.inspect",
        )
    ),
]


def options_of(command, pytestconfig):
    """(what --help prints, the packages that it imported)."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command, "--help"],
        cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands(command, pytestconfig):
    told, imported = options_of(command, pytestconfig)
    assert "--help" in told and not imported & SLOW and "argparse" in imported


def test_benchmarks(pytestconfig):
    scripts = sorted((pytestconfig.rootpath / "benchmarks").glob("*.py"))
    assert len(scripts) == 10  # as many as there are questions
    for script in scripts:
        told, imported = options_of([f"benchmarks/{script.name}"], pytestconfig)
        assert ("--folder" if script.name == "gallery.py" else "--json FILE") in told and not imported & SLOW
