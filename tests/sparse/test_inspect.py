"""python -m sparse.inspect, as a user runs it."""

import json
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparse import pack
from sparse.inspect import main

ROOT = Path(__file__).parents[2]


def inspect(*arguments):
    command = [sys.executable, "-m", "sparse.inspect", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def inspect_here(path, capsys):
    """The same without a new process, which takes seconds: (exit code, stdout, stderr)."""
    return main([str(path)]), *capsys.readouterr()


def rows_of(output):
    """Each line of the table as its name and the list of its cells."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
    return {line[0]: line[1:] for line in lines if len(line) > 1}


@pytest.fixture
def network():
    torch.manual_seed(0)
    masks = {"body.weight": torch.zeros(8, 4, 3, 3, dtype=torch.bool)}
    masks["body.weight"].view(-1)[:72] = True
    tensors = {
        "body.weight": torch.ones(8, 4, 3, 3) * masks["body.weight"],
        "body.bias": torch.ones(8),
        "head.weight": torch.ones(4, 10),
        "norm.weight": torch.ones(8),
    }
    return tensors, masks


def test_packed_file(network, tmp_path, capsys):
    save_file(pack(*network), path := tmp_path / "network.safetensors")
    code, output, errors = inspect_here(path, capsys)
    assert code == 0, errors
    rows = rows_of(output)
    packed_bytes = 288 // 8 + 72 * 4 + 4 * 8
    assert rows["body.weight"] == ["8×4×3×3", "72", "288", "0.2500", str(packed_bytes)]
    assert rows["head.weight"] == ["4×10", "40", "40", "1.0000", "160"]
    assert rows["masked (1)"] == ["72", "288", "0.2500", str(packed_bytes)]
    assert rows["total (2)"] == ["112", "328", "0.3415", str(packed_bytes + 160)]
    assert "norm" not in output and "bias" not in output
    assert f"{path.stat().st_size:,} bytes" in output


def test_dense_file(network, tmp_path, capsys):
    save_file(network[0], path := tmp_path / "dense.safetensors")
    code, output, _ = inspect_here(path, capsys)
    assert code == 0
    rows = rows_of(output)
    assert rows["body.weight"] == ["8×4×3×3", "72", "288", "0.2500", "1,152"]
    assert rows["total (2)"] == ["112", "328", "0.3415", "1,312"]
    assert not any(name.startswith("masked") for name in rows)


def test_published_checkpoint(golden, tmp_path, capsys):
    """Published names; the first 40 entries, with every other weight 0."""
    shapes = json.loads((golden / "reference_checkpoint_keys.json").read_text())
    shapes = dict(list(shapes.items())[:40])
    state = {name: (torch.arange(torch.Size(shape).numel()) % 2.0).view(shape) for name, shape in shapes.items()}
    torch.save(state, path := tmp_path / "I10_E1_gen.pth")
    code, output, errors = inspect_here(path, capsys)
    assert code == 0, errors
    rows = rows_of(output)
    weights = {name: shape for name, shape in shapes.items() if len(shape) == 4}
    assert set(weights) == set(rows) - {"weight", f"total ({len(weights)})"}
    assert rows["encoder.body.0.body.0.weight"][0] == "64×64×3×3"
    assert rows["encoder.body.0.body.0.weight"][3] == "0.5000"


class Intruder:
    def __reduce__(self):
        return Path.touch, (Path(__file__).parent / "intruded",)


def damaged_files(folder, network):
    save_file(pack(*network), folder / "whole.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "whole.safetensors").read_bytes()[:-50])
    yield "cut.safetensors", "not a whole safetensors file"
    (folder / "text.pth").write_text("not a checkpoint")
    yield "text.pth", "not a file of tensors that torch can read safely"
    torch.save({"weight": Intruder()}, folder / "code.pth")
    yield "code.pth", "not a file of tensors alone: it asks for"
    torch.save([1, 2], folder / "list.pth")
    yield "list.pth", "holds a list"
    torch.save({"epoch": 3}, folder / "epoch.pth")
    yield "epoch.pth", "holds no convolution or linear weight"
    torch.save({"weight": torch.zeros(1, 1).expand(10**5, 10**5)}, folder / "expanded.pth")
    yield "expanded.pth", "bytes for tensors of 40,000,000,000"
    with zipfile.ZipFile(folder / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 22))
    yield "bomb.pth", "bytes that inflate to 4,194,304"
    torch.save({7: torch.zeros(3, 3)}, folder / "number.pth")
    yield "number.pth", "holds no convolution or linear weight"
    packed = pack(*network)
    packed["body.weight::values"] = packed["body.weight::values"][:-1].clone()
    save_file(packed, folder / "inconsistent.safetensors")
    yield "inconsistent.safetensors", "packed tensor body.weight"
    yield "missing.safetensors", "there is no such file"


@pytest.mark.slow
def test_nobody_reads_on(network, tmp_path):
    """As after `| head`."""
    save_file(pack(*network), tmp_path / "packed.safetensors")
    command = [sys.executable, "-m", "sparse.inspect", str(tmp_path / "packed.safetensors")]
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    program.stdout.close()
    assert (program.stderr.read(), program.wait(timeout=60)) == (b"", -signal.SIGPIPE)


def test_bad_files_give_one_line_and_exit_code_2(network, tmp_path, capsys):
    for name, message in damaged_files(tmp_path, network):
        code, output, errors = inspect_here(tmp_path / name, capsys)
        assert (code, output) == (2, ""), name
        assert errors.startswith(f"error: {tmp_path / name}: ") and message in errors, errors
        assert errors.count("\n") == 1, errors
    assert not (Path(__file__).parent / "intruded").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [([""], "argument CHECKPOINT: is empty, as a variable that is not set gives it"), ([], "required: CHECKPOINT")],
)
def test_a_checkpoint_that_is_not_named_is_not_looked_for(network, tmp_path, capsys, monkeypatch, arguments, told):
    """...in the current folder."""
    save_file(pack(*network), tmp_path / "I9_E1_gen.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (2, "")
    assert err.startswith("error: ") and err.endswith(f"{told} (python -m sparse.inspect --help lists all options)\n")


def test_a_bad_file_as_a_user_sees_it(tmp_path):
    result = inspect(tmp_path / "missing.safetensors")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == f"error: {tmp_path / 'missing.safetensors'}: there is no such file\n"


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("a" * 300, "File name too long"),
        ("e", "I12_E1_gen.safetensors: a link to nothing"),
        ("e/loop", "symbolic links"),
    ],
)
def test_what_cannot_be_seen_is_one_line(tmp_path, capsys, named, why):
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "I12_E1_gen.safetensors").symlink_to("nowhere")
    (tmp_path / "e" / "loop").symlink_to("loop")
    code, out, err = inspect_here(tmp_path / named, capsys)
    assert code == 2 and out == "" and err.count("\n") == 1 and why in err


def test_a_folder_is_its_latest_checkpoint(network, tmp_path, capsys):
    for name in ("I9_E1", "I10_E1"):
        save_file(pack(*network), tmp_path / f"{name}_gen.safetensors")
    for named in (tmp_path, tmp_path / "I10_E1"):
        code, out, _ = inspect_here(named, capsys)
        assert code == 0 and out.splitlines()[0] == str(tmp_path / "I10_E1_gen.safetensors")
        assert rows_of(out)["body.weight"][1] == "72"
    (tmp_path / "empty").mkdir()
    code, out, err = inspect_here(tmp_path / "empty", capsys)
    assert (code, out) == (2, "") and err == f"error: {tmp_path / 'empty'}: no checkpoint in this folder\n"
