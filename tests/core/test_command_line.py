"""Commands that work in one process, under torchrun."""

import importlib
import subprocess
import sys

import pytest

import infer
import sr
from benchmarks import layer_density, training
from core.errors import UserError
from core.processes import Processes

ONE_PROCESS = {  # command: what it cannot do without
    "core.calibrate.__main__": ["-r", "x"],
    "core.config.__main__": [],
    "core.demo": ["x"],
    "core.export": ["-r", "x", "-o", "x.safetensors"],
    "core.fixed_pattern.__main__": ["-r", "x", "--photos", "x", "-o", "x.safetensors"],
    "core.perceptual_network.__main__": ["--images", "x", "-o", "x.safetensors"],
    "core.report.__main__": ["x"],
    "core.score.__main__": ["x", "x"],
    "core.summary.__main__": ["x"],
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


@pytest.mark.parametrize(
    "command, flags, empty",
    [
        ("infer", ["-r", "", "-i", "a.png", "-o", "b"], "-r/--checkpoint"),
        ("infer", ["-i", "", "-o", "b"], "-i/--input"),
        ("core.export", ["-r", "x", "", "-o", "x.safetensors"], "-r/--checkpoint"),
        ("core.score.__main__", ["", "x"], "SR"),
        ("core.summary.__main__", [""], "CONFIG|CHECKPOINT"),
        ("core.config.__main__", [""], "FILE"),
    ],
)
def test_a_flag_that_is_empty_stands_for_nothing(command, flags, empty, run_main):
    code, out, err = run_main(importlib.import_module(command).main, *flags)
    assert (code, out) == (2, "") and err.startswith(f"error: argument {empty}: is empty, as a variable")


EACH_PATH = [(command, at) for command, flags in ONE_PROCESS.items() for at, given in enumerate(flags) if given == "x"]


@pytest.mark.parametrize(("command", "at"), EACH_PATH, ids=str)
def test_no_path_of_any_command_may_be_empty(command, at, run_main, tmp_path, monkeypatch):
    """Flags, and arguments without one: the current folder, for which it would stand, is not looked at."""
    monkeypatch.chdir(tmp_path)
    flags = ["" if number == at else given for number, given in enumerate(ONE_PROCESS[command])]
    code, out, err = run_main(importlib.import_module(command).main, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1) and ": is empty, as a variable that is not set gives it (" in err


def test_no_training_begins_at_step_0_where_its_checkpoint_is_an_empty_text(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sr.py", "-c", "x.yaml", "-r", ""])
    with pytest.raises(UserError, match="-r/--resume: is empty"):
        sr.parse_arguments()


def test_no_run_of_a_benchmark_is_an_empty_text(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["layer_density.py", ""])
    with pytest.raises(UserError, match="experiments/NAME: is empty"):
        layer_density.parse_arguments()


def test_a_flag_that_is_empty_unless_it_is_given_may_be_given_so():
    assert infer.parse_arguments(["-i", "a", "-o", "b", "--suffix", ""]).suffix == ""


def test_commands_that_share_their_work_out_are_not(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["sr.py", "-c", "x.yaml"])
    assert sr.parse_arguments().config == "x.yaml"
    monkeypatch.setattr(sys, "argv", ["training.py", "--config", "x.yaml"])
    assert training.parse_arguments().config == "x.yaml"
    assert infer.parse_arguments(["-i", "a", "-o", "b"]).input == ["a"]


@pytest.mark.parametrize("told", ["", "1"])
def test_one_process_may_be_told_so(run_main, monkeypatch, tmp_path, told):
    monkeypatch.setenv("WORLD_SIZE", told)
    assert Processes.from_environment("cpu").world == 1
    code, _, err = run_main(importlib.import_module("core.summary.__main__").main, tmp_path / "x.yaml")
    assert code == 2 and "x.yaml" in err


@pytest.mark.parametrize("told", ["two", "0", "-2", "2.5"])
def test_a_number_of_processes_that_is_none_is_refused(run_main, monkeypatch, tmp_path, told):
    monkeypatch.setenv("WORLD_SIZE", told)
    error = f"error: the variable WORLD_SIZE is {told!r}, but must be a whole number of 1 or more: unset it\n"
    for main in (importlib.import_module("core.summary.__main__").main, infer.main):
        assert run_main(main, *(["x"] if main is not infer.main else ["-i", "x", "-o", "y"])) == (2, "", error)
    with pytest.raises(UserError, match="WORLD_SIZE"):
        Processes.from_environment("cpu")


def test_several_processes_without_torchrun_are_refused(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    missing = "LOCAL_RANK, MASTER_ADDR, MASTER_PORT"
    with pytest.raises(UserError, match=f"WORLD_SIZE is 2, and these variables are missing: {missing}; start"):
        Processes.from_environment("cpu")


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


def config_of(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["sr.py", *map(str, options)])
    return sr.config_of(sr.parse_arguments())


@pytest.mark.parametrize("phase", ["distill", "val"])
@pytest.mark.parametrize("student", ["demo", "faces_16_128", "faces_16_128_small", "photos_x4"])
def test_debugging_leaves_a_student_its_chain(student, phase, monkeypatch, pytestconfig):
    file = pytestconfig.rootpath / f"config/{student}_one_call.yaml"
    options = "-c", file, "-p", phase, "--set", "datasets.val.dataroot=images", "--set", "datasets.val.hr_dataroot=null"
    quick, usual = config_of(monkeypatch, *options, "-debug"), config_of(monkeypatch, *options)
    assert quick.sample == usual.sample and quick.sample.steps == 1
    assert (quick.train.print_freq, quick.train.val_freq, quick.train.save_checkpoint_freq) == (2, 4, 4)


def test_debugging_shortens_long_chains(monkeypatch, pytestconfig):
    steps = {}
    for name in ("demo", "faces_16_128_base", "faces_16_128"):  # 8, 20 and all of 2000
        steps[name] = config_of(monkeypatch, "-c", pytestconfig.rootpath / f"config/{name}.yaml", "-debug").sample.steps
    assert steps == {"demo": 8, "faces_16_128_base": 10, "faces_16_128": 10}
    file = pytestconfig.rootpath / "config/faces_16_128.yaml"
    assert config_of(monkeypatch, "-c", file, "-debug", "--set", "sample.steps=30").sample.steps == 30


def test_debugging_a_validation_needs_no_training(small_checkpoint, monkeypatch):
    """The config of a checkpoint has no section `train` here, and gets none."""
    images = "--set", "datasets.val.dataroot=images"
    config = config_of(monkeypatch, "-p", "val", "-r", small_checkpoint, *images, "-debug")
    assert "train" not in config and config.sample.steps == 4


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--density", "15"], "--density: sparse.density is 15.0, but must be a number in (0, 1] (0.15 is 15 %)"),
        (["--prune-rate", "2"], "--prune-rate: sparse.prune_rate is 2.0"),
        (["--growth", "x"], "--growth: sparse.growth is 'x'"),
        (["--lr", "-1"], "--lr: train.optimizer.lr is -1.0"),
        (["--momentum", "-1"], "--momentum: train.optimizer.momentum is -1.0"),
        (["--dense", "--density", "0.2"], "argument --density: not allowed with argument --dense"),
        (["--prune_rate", "0.2", "--dense"], "argument --prune-rate: not allowed with argument --dense"),
        (["--dense", "--growth", "random"], "argument --growth: not allowed with argument --dense"),
    ],
)
def test_a_flag_of_sr_is_named(run_main, monkeypatch, options, told):
    monkeypatch.setattr(sys, "argv", ["sr.py", "-p", "train", "-c", "config/demo.yaml", *options])
    code, _, err = run_main(lambda _: sr.main())
    assert code == 2 and err.startswith(f"error: {told}") and err.count("\n") == 1


def test_all_flags_that_set_keys_have_names(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sr.py"])
    assert sr.flags(sr.parse_arguments()).keys() <= sr.FLAGS.keys()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_works_where_streams_are_closed(tmp_path, make_image, pytestconfig, closed):
    image, page = tmp_path / "a.png", tmp_path / "page.html"
    make_image(32, 32).save(image)
    score = [sys.executable, "-m", "core.score", image, image, "--report", page]
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *score], cwd=pytestconfig.rootpath, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"") and page.read_bytes().lower().startswith(b"<!doctype html>")
