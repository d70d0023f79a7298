"""A run of sr.py that is refused leaves nothing behind that was not there before."""

import os
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import save_file

import sr
from core.checkpoint.files import TrainingState, save_checkpoint
from core.config import changed, check_config
from core.errors import UserError
from core.experiment import Refusable, _locks, checkpoint_to_resume, claim, open_folders
from core.phases import run_phase
from core.training.batch_memory import memory_here, refuse_huge_batches
from core.training.stopping import STOPPING
from data import DataError
from data.files import remove_empty

# What `record` of torch needs stderr for, which is captured here.
pytestmark = pytest.mark.filterwarnings("ignore:Unable to enable fault handler")

SAMPLE = {"solver": "ddim", "steps": 1, "key_steps": "none", "start": 0.9, "consistency": 1}
REFUSED = [  # (options of sr.py, what is told)
    (["-p", "train", "--set", "datasets.train.dataroot=nowhere"], "datasets.train.dataroot: there is no nowhere"),
    (["-p", "train", "--set", "datasets.val.dataroot=nowhere"], "datasets.val.dataroot: there is no nowhere"),
    (["-p", "train", "--set", "metrics.lpips_weights=nowhere"], "no such file of weights"),
    (["-p", "train", "-r", "nowhere/I3_E1"], "no such checkpoint"),
    (["-p", "train", "-r", "CHECKPOINT", "--set", "model.unet.res_blocks=2"], "and the config says 2"),
    (
        ["-p", "train", "-r", "MASKED", "--set", "sparse.exclude=[encoder.*]", "--sparse"],
        "continue with the exclude and min_elements that they were made with",
    ),
    (["-p", "train", "--set", "datasets.train.r_resolution=1000000000"], "these alone take 4,000,000,000 GB"),
    (["-p", "train", "-r", "a" * 300], "File name too long"),
    (["-p", "train", "--set", f"datasets.train.dataroot={'a' * 300}"], "dataroot: aaaa"),
    (["-p", "val", "-r", "CHECKPOINT", "--set", f"metrics.fid_weights={'a' * 300}"], "File name too long"),
    (["-p", "val"], "no checkpoint to validate"),
    (["-p", "train", "--set", "datasets.train.batch_size=100000000"], "datasets.train.batch_size is 100000000, and a"),
    (["-p", "val", "-r", "DAMAGED"], "no config in its metadata"),
    (["-p", "val", "-r", "CHECKPOINT", "--set", "datasets.val.dataroot=nowhere"], "there is no nowhere"),
    (["-p", "val", "-r", "CHECKPOINT", "--set", "metrics.fid_weights=nowhere"], "no such file of weights"),
    (["-p", "distill"], "a distillation begins with a trained network"),
    (["-p", "distill", "-r", "CHECKPOINT", "--set", "distill.teacher=nowhere"], "no such checkpoint"),
    (["-p", "distill", "-r", "CHECKPOINT", "--set", "distill.perceptual_network=nowhere"], "nowhere is no file"),
    (["-p", "distill", "-r", "CHECKPOINT", "--set", "distill.level_weights=[1,2,3,4,5,6]"], "has 6 weights"),
]


@pytest.fixture(autouse=True)
def without_nohup():
    """These tests send SIGHUP, which has no effect where they run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def config(small_config, small_network, tmp_path):
    """A small experiment of all phases, as nested dicts, and checkpoints beside it."""
    config = small_config.to_dict()
    config["datasets"]["train"] = {**config["datasets"]["val"], "batch_size": 2}
    config |= {"train": {"n_iter": 1, "continuous_scale": False, "optimizer": {"lr": 1e-3}}, "sample": SAMPLE}
    config["distill"] = {"head_channels": 4}
    weights = small_network.state_dict()
    masks = {name: torch.rand_like(weights[name]) < 0.5 for name in small_network.prunable_parameters()}
    for name in ("CHECKPOINT", "DAMAGED", "MASKED"):
        state = TrainingState(weights, weights, masks if name == "MASKED" else {}, step=3)
        save_checkpoint(tmp_path / name, small_config, state)
    save_file({"a": torch.zeros(2)}, tmp_path / "DAMAGED_gen.safetensors")
    return config


@pytest.fixture
def command(config, tmp_path, run_main, monkeypatch):
    """command(*options of sr.py) -> (exit code, stdout, stderr), in this process."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["sr.py", "-c", "config.yaml", "--device", "cpu", *options])
        return run_main(lambda _: sr.main())

    return run


def tree(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(("options", "told"), REFUSED)
@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
def test_nothing_is_left(command, tmp_path, options, told, begun):
    if begun:  # with an empty folder, a log and a file of the user's
        (tmp_path / "experiments" / "small" / "checkpoint").mkdir(parents=True)
        (tmp_path / "experiments" / "small" / "logs").mkdir()
        (tmp_path / "experiments" / "small" / "notes.txt").write_text("mine")
        for phase in "train", "val", "distill":
            (tmp_path / "experiments" / "small" / "logs" / f"{phase}.log").write_text("earlier\n")
    before, held = tree(tmp_path), list(_locks)
    code, _, err = command(*options)
    assert code == 2 and told in err and err.count("\n") == 1
    assert tree(tmp_path) == before and _locks == held


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["use_crop=true", "r_resolution=64"], "wave0.png is 32x32, too small for r_resolution 64: lower that to 32"),
        (["lr_dataroot=LR", "hr_dataroot=waves", "dataroot=null", "use_crop=true"], "l_resolution to r_resolution / 2"),
        (["lr_dataroot=waves", "hr_dataroot=LR", "dataroot=null", "use_crop=true"], "are the folders swapped?"),
    ],
)
@pytest.mark.parametrize("phase", ["train", "distill"])
def test_nothing_is_left_where_images_have_other_sizes(command, tmp_path, make_image, phase, options, told):
    (tmp_path / "LR").mkdir()
    for n in range(5):
        make_image(16, 16, n).save(tmp_path / "LR" / f"wave{n}.png")
    before, held = tree(tmp_path), list(_locks)
    flags = [part for option in options for part in ("--set", f"datasets.train.{option}")]
    code, _, err = command("-p", phase, "-r", "CHECKPOINT", *flags)
    assert code == 2 and told in err and err.count("\n") == 1
    assert tree(tmp_path) == before and _locks == held


@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
def test_nothing_is_left_where_the_first_batch_cannot_be_read(command, tmp_path, begun):
    """...though the first image can; of a run that was there before, all stays but the lines of its log."""
    batch = ["-p", "train", "--set", "datasets.train.batch_size=5", "--set", "train.save_checkpoint_freq=1"]
    if begun:
        assert command(*batch)[0] == 0
    (tmp_path / "waves" / "wave3.png").write_bytes(b"no image")
    before = tree(tmp_path)
    left = ["-r", "auto", "--set", "train.n_iter=2"] if begun else []
    code, _, err = command(*batch, *left, "--set", "datasets.val=null")
    assert code == 2 and "cannot read image" in err
    after, home = tree(tmp_path), tmp_path / "experiments" / "small"
    assert after.keys() == before.keys() and not [lock for lock in _locks if lock.name == str(home / ".lock")]
    grown = {path for path in after if after[path] != before[path]}
    assert grown <= {home / ".lock", home / "logs" / "train.log"}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
@pytest.mark.parametrize("phase", ["train", "distill", "val"])
def test_a_signal_during_set_up_leaves_nothing(command, tmp_path, monkeypatch, phase, name):
    """It comes when the folders are open; afterwards it does what it did before."""

    def find(*_):
        assert (tmp_path / "experiments" / "small" / "logs" / f"{phase}.log").exists()
        os.kill(os.getpid(), signal.Signals[name])

    handlers, before = [signal.getsignal(s) for s in STOPPING], tree(tmp_path)
    monkeypatch.setattr("core.phases.found", find)
    code, _, err = command("-p", phase, "-r", "CHECKPOINT")
    assert code == 128 + signal.Signals[name] and err == "interrupted\n"
    assert tree(tmp_path) == before and [signal.getsignal(s) for s in STOPPING] == handlers


def test_a_second_signal_does_not_cut_the_clearing_up_short(command, tmp_path, monkeypatch):
    clear = remove_empty

    def interrupted(folders):
        os.kill(os.getpid(), signal.SIGTERM)
        clear(folders)

    before = tree(tmp_path)
    monkeypatch.setattr("core.phases.found", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr("core.experiment.remove_empty", interrupted)
    assert command("-p", "train", "-r", "CHECKPOINT")[0] == 143
    assert tree(tmp_path) == before


def test_under_nohup_set_up_goes_on(command, monkeypatch):
    def find(config, resume):
        os.kill(os.getpid(), signal.SIGHUP)
        return checkpoint_to_resume(config, resume)

    monkeypatch.setattr("core.phases.checkpoint_to_resume", find)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    code, _, err = command("-p", "train", "-r", "CHECKPOINT", "--set", "train.n_iter=4")
    assert code == 0, err


@pytest.mark.parametrize("world", [1, 2])
def test_of_several_processes_none_is_interrupted_alone(config, tmp_path, monkeypatch, world):
    """They would wait for it; signals keep to what they do by default."""
    seen = []
    monkeypatch.setattr(
        "core.phases.set_up", lambda *_: seen.append(signal.getsignal(signal.SIGTERM)) or (lambda: None)
    )
    processes = SimpleNamespace(is_main=True, world=world, close=lambda: None)
    monkeypatch.setattr("core.phases.Processes.from_environment", lambda _: processes)
    run_phase(check_config(config | {"phase": "train"}), Namespace(gpu_ids=None, deterministic=False, device="cpu"))
    assert (seen == [signal.SIG_DFL]) is (world == 2)


@pytest.mark.parametrize("phase", ["train", "distill", "val"])
def test_what_is_not_refused_stays(command, tmp_path, phase):
    assert command("-p", phase, "-r", "nowhere")[0] == 2
    code, _, err = command("-p", phase, "-r", "CHECKPOINT", "--set", "train.n_iter=4")
    assert code == 0, err
    made = {path.name for path in (tmp_path / "experiments" / "small").rglob("*")}
    assert {f"{phase}.log", "metrics.json"} <= made and (phase == "val" or ".lock" in made)


@pytest.mark.parametrize(("options", "told"), [*REFUSED[:3], REFUSED[6], *REFUSED[-3:]])
def test_no_run_of_wandb_is_begun(command, monkeypatch, options, told):
    begun = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **names: begun.append(names)))
    assert command(*options, "-enable_wandb")[0] == 2 and not begun
    phase = options[options.index("-p") + 1]
    code, _, err = command("-p", phase, "-r", "CHECKPOINT", "--set", "train.n_iter=4", "-enable_wandb")
    assert code == 0 and [run["name"] for run in begun] == ["small"], err


@pytest.mark.parametrize("phase", ["train", "distill", "val"])
def test_a_folder_that_cannot_be_written_to_is_found_before(config, tmp_path, phase):
    config = check_config(config | {"phase": phase})
    home = tmp_path / "experiments" / "small"
    of_all = {"log", "results", "results_sr", "results_hr", "results_lr", "process"}
    for key in of_all | {"tb_logger", "checkpoint"}:
        (home / config.path[key]).parent.mkdir(parents=True, exist_ok=True)
        (home / config.path[key]).write_text("a file")
        if key in of_all or phase != "val":
            with pytest.raises(DataError, match=r"not a folder|Not a directory"):
                open_folders(config)
        else:
            open_folders(config)
        for own in [lock for lock in _locks if lock.name == str(home / ".lock")]:
            _locks.remove(own)
            own.close()
        shutil.rmtree(home)


@pytest.mark.parametrize("cause", [KeyboardInterrupt, UserError])
@pytest.mark.parametrize("is_main", [True, False])
def test_the_main_process_alone_clears_up(config, tmp_path, monkeypatch, cause, is_main):
    """After Ctrl-C too. The others leave it some time."""
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    with pytest.raises(cause), Refusable(check_config(config | {"phase": "val"}), is_main):
        open_folders(check_config(config | {"phase": "val"}))
        raise cause
    assert (tmp_path / "experiments").exists() != is_main and bool(waited) != is_main


def test_another_run_keeps_its_own(config, tmp_path, pytestconfig):
    """One that takes the experiment while this one is set up; the lock that it made, its log and its folders stay."""
    config = check_config(config | {"phase": "train"})
    home = tmp_path / "experiments" / "small"
    script = (
        "import sys, time; from pathlib import Path; from core.experiment import claim; home = Path(sys.argv[1])\n"
        "(home / 'logs').mkdir(parents=True); claim(home); (home / 'logs' / 'train.log').write_text('its own')\n"
        "print('claimed', flush=True); time.sleep(60)"
    )
    with pytest.raises(UserError, match="is written to by process"), Refusable(config, is_main=True):
        command = [sys.executable, "-c", script, str(home)]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=pytestconfig.rootpath)
        try:
            assert other.stdout.readline() == b"claimed\n"
            open_folders(config)
        finally:
            other.kill()
            other.wait()
            other.stdout.close()
    assert {str(path.relative_to(home)) for path in home.rglob("*")} == {".lock", "logs", "logs/train.log"}


def test_a_validation_leaves_the_lock_of_a_training(config, tmp_path):
    """...that has begun while the validation was set up."""
    config = check_config(config | {"phase": "val"})
    with pytest.raises(UserError, match="refused"), Refusable(config, is_main=True):
        open_folders(config)
        (tmp_path / "experiments" / "small" / ".lock").write_text("of a training")
        raise UserError("refused")
    assert [path.name for path in (tmp_path / "experiments" / "small").rglob("*")] == [".lock"]


def test_a_lock_that_was_removed_is_none(tmp_path, monkeypatch):
    """...as by a run that was refused: who waited for it makes another."""
    taken = []

    def lock_late(file, operation):
        taken.append(file.name)
        if len(taken) == 1:
            (tmp_path / ".lock").unlink()

    monkeypatch.setattr("fcntl.lockf", lock_late)
    claim(tmp_path)
    assert len(taken) == 2 and str(_locks[-1].name) == str(tmp_path / ".lock")
    assert (tmp_path / ".lock").read_text().startswith("process ")
    _locks.pop().close()


def test_a_batch_that_no_memory_could_hold(config, monkeypatch):
    """One larger than the set is none."""
    config, device = check_config(config | {"phase": "train"}), torch.device("cpu")
    assert memory_here(device) > 1e9
    refuse_huge_batches(changed(config, {"datasets.train.batch_size": 500}), device)
    monkeypatch.setattr("core.training.batch_memory.memory_here", lambda _: 1e6)
    refuse_huge_batches(config, device)
    with pytest.raises(UserError, match=r"datasets\.train\.batch_size is 500, and a step takes more than .* lower it"):
        refuse_huge_batches(changed(config, {"datasets.train.batch_size": 500}), device)


def test_flags_of_sparse_training_beside_a_dense_config(command):
    code, out, err = command("-p", "train", "--density", "0.2", "--set", "sparse.enabled=false")
    assert code == 0 and "--density has no effect: sparse.enabled is false; add --sparse" in out, err


@pytest.mark.slow
def test_nothing_is_left_by_several_processes(config, tmp_path, pytestconfig):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    launcher = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(pytestconfig.rootpath / "sr.py"),
    ]
    options = ["-p", "distill", "-c", "config.yaml", "--device", "cpu", "-r", "CHECKPOINT"]
    before = tree(tmp_path)
    done = subprocess.run(
        [sys.executable, *launcher, *options, "--set", "distill.teacher=nowhere"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode and "error: " in done.stderr.splitlines()[0]
    assert tree(tmp_path) == before


def test_a_link_to_nothing_as_the_latest_checkpoint_is_not_passed_over(command, tmp_path):
    folder = tmp_path / "experiments" / "small" / "checkpoint"
    folder.mkdir(parents=True)
    for kind in "gen", "opt":
        shutil.copy(tmp_path / f"CHECKPOINT_{kind}.safetensors", folder / f"I3_E1_{kind}.safetensors")
    (folder / "I12_E1_gen.safetensors").symlink_to("nowhere")
    code, _, err = command("-p", "train", "-r", "auto")
    assert code == 2 and err.count("\n") == 1 and "I12_E1_gen.safetensors: a link to nothing" in err
