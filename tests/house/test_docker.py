"""The Docker image, as far as it can be tested without Docker: the files that go into it suffice."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import core.inference.upscaling, core.web.enlarging, core.report.page
from core.shipped import FILES, FOLDER
assert FOLDER.is_relative_to({folder!r}) and core.inference.upscaling.__file__.startswith({folder!r})
"""


def named_for_the_image():
    """The files that .dockerignore lets through."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*" and patterns[-1] == "**/__pycache__"
    for pattern in patterns[1:-1]:
        found = list(ROOT.glob(pattern.removeprefix("!")))
        assert pattern.startswith("!") and (found or "checkpoints" in pattern), pattern
        for path in found:
            files = path.rglob("*") if path.is_dir() else [path]
            yield from (file for file in files if file.is_file() and "__pycache__" not in file.parts)


@pytest.mark.slow
def test_files_of_the_image_suffice(tmp_path):
    folder = tmp_path / "app"
    for file in named_for_the_image():
        if file.suffix != ".safetensors":
            target = folder / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    assert not {*map(Path, ("tests", "docs", ".git"))} & {path.relative_to(folder) for path in folder.iterdir()}
    python = {"cwd": tmp_path, "env": {"PYTHONPATH": str(folder)}, "check": True}
    subprocess.run([sys.executable, folder / "infer.py", "--help"], **python, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-c", CODE.format(folder=str(folder))], **python)


def test_dockerfile_names_what_there_is():
    text = (ROOT / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (\S+)", text, re.M):
        assert source == "." or list(ROOT.glob(source)), source
    assert (ROOT / re.search(r"REQUIREMENTS=(requirements-\S+)", text)[1]).is_file()
    steps = [line.split()[0] for line in text.splitlines() if re.match(r"[A-Z]+ ", line)]
    assert steps[0] == "FROM" and steps.index("USER") < steps.index("ENTRYPOINT")
    assert re.search(r"^torch==", (ROOT / "requirements.txt").read_text(), re.M)  # that is installed first
