"""Training when something goes wrong: values that are not finite, signals, files that cannot be read or written."""

import copy
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from core.checkpoint.files import load_network, load_training_state
from core.config import check_config
from core.errors import UserError
from core.experiment import claim, open_folders
from core.log import start_logging
from core.processes import Processes
from core.training.ema import EMA
from core.training.gradients import step_unless
from core.training.optimizer import build_optimizer
from core.training.stopping import stop_requested
from core.training.trainer import Trainer
from data import DataError

TRAIN = {
    "n_iter": 8,
    "val_freq": 100,
    "save_checkpoint_freq": 2,
    "keep_checkpoints": None,
    "print_freq": 2,
    "optimizer": {"lr": 1e-3},
    "ema_scheduler": {"step_start_ema": 2, "ema_decay": 0.5},
}


@pytest.fixture
def config(small_config):
    """The small experiment, to be trained sparse on its five images in batches of two."""
    config = small_config.to_dict()
    config["datasets"]["train"] = {**config["datasets"].pop("val"), "batch_size": 2, "augment": True}
    sparse = {"enabled": True, "density": 0.15, "update_every": 3, "update_until": 1.0}
    return check_config(config | {"train": copy.deepcopy(TRAIN), "sparse": sparse}).to_dict()


def validated(config):
    """The images of training as a set to validate on."""
    return {key: config["datasets"]["train"][key] for key in ("name", "dataroot", "l_resolution", "r_resolution")}


class Disturbed(Trainer):
    """The loss of some steps is multiplied by something that is not finite."""

    factor = 1.0

    def build_objective(self):
        objective = super().build_objective()
        return lambda *inputs: objective(*inputs) * self.factor

    def train_step(self, batch):
        self.factor = self.factors.get(self.step + 1, 1.0)
        super().train_step(batch)
        self.factor = 1.0


def trainer_of(config, kind=Trainer, resume=None):
    log = start_logging(os.devnull + "-none", "train", is_main=False)
    return kind(check_config(config), Processes(0, 1, torch.device("cpu")), log, resume)


def state_of(trainer):
    """All that a step may change, apart from the count of steps."""
    state = {f"weights/{name}": tensor for name, tensor in trainer.network.state_dict().items()}
    state |= {f"ema/{name}": tensor for name, tensor in trainer.ema.network.state_dict().items()}
    state |= {f"masks/{name}": mask for name, mask in trainer.masker.masks.items()}
    for name, parameter in trainer.network.named_parameters():
        state |= {f"{name}/{key}": value for key, value in trainer.optimizer.state[parameter].items()}
    return {name: tensor.clone() for name, tensor in state.items() if tensor is not None}


def changed(before, after):
    return [name for name in after if name not in before or not torch.equal(before[name], after[name])]


def checkpoints(config):
    folder = Path(config["path"]["root"], config["name"], "checkpoint")
    return sorted(int(file.name[1:].split("_")[0]) for file in folder.glob("*_gen.safetensors"))


def finite(config):
    """Whether all values of all checkpoints are finite."""
    files = Path(config["path"]["root"], config["name"]).rglob("*.safetensors")
    return all(t.isfinite().all() for file in files for t in load_file(file).values() if t.is_floating_point())


# ---------------------------------------------------------------------------------------------------------------------
# Values that are not finite.


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_that_is_not_finite_changes_nothing(config, optimizer, clip):
    """Steps 3, when an update of the masks is due, and 5 are bad, all others change something."""
    config["train"] |= {"optimizer": {"type": optimizer, "lr": 1e-3}, "grad_clip": clip}
    trainer = trainer_of(config, Disturbed)
    trainer.factors = {3: torch.nan, 5: torch.inf}
    for step, batch in zip(range(1, 8), trainer.batches(), strict=False):
        before = state_of(trainer)
        trainer.train_step(batch)
        assert trainer.step == step and bool(changed(before, state_of(trainer))) == (step not in trainer.factors)
    assert int(trainer.skips.kept) == 5 and trainer.losses.isfinite()


def test_a_loss_that_is_not_finite_is_enough(config):
    """...though the gradient be: it is 0 where the loss is infinite."""
    trainer = trainer_of(config)
    trainer.forward_backward = lambda *arguments: torch.tensor(torch.inf)
    before = state_of(trainer)
    trainer.train_step(next(iter(trainer.batches())))
    assert not changed(before, state_of(trainer)) and trainer.skips.known == 1


def test_steps_skipped_now_and_then_are_counted_and_the_rest_goes_on(config, caplog):
    trainer = trainer_of(config, Disturbed)
    trainer.factors = dict.fromkeys((3, 4, 6, 8), torch.nan)
    trainer.options = trainer.options.replace(max_skipped=3)
    lines = []
    trainer.log.info = lines.append
    try:
        trainer.fit()
    finally:
        del trainer.log.info
    told = [line.partition("images/s")[2].split("  0.1 min left")[0] for line in lines if line.startswith("step ")]
    assert told == [
        "",
        *("  2 skipped: loss or gradient not finite", *["  1 skipped: loss or gradient not finite"] * 2),
    ]
    assert checkpoints(config) == [2, 4, 6, 8] and finite(config)


@pytest.mark.slow
def test_too_many_in_a_row_end_the_training(config):
    """...with the last good checkpoint named, from which it continues."""
    config["train"] |= {"max_skipped": 3, "n_iter": 100}
    trainer = trainer_of(config, Disturbed)
    trainer.factors = dict.fromkeys(range(5, 100), torch.nan)
    with pytest.raises(UserError, match=r"3 steps in a row, up to step 7, .* checkpoint is .*I6_E3: continue it"):
        trainer.fit()
    assert checkpoints(config) == [2, 4, 6]  # steps 5 and 6 changed nothing, so the last is what step 4 left
    config["train"]["n_iter"] = 8
    trainer_of(config, resume=trainer.last_checkpoint).fit()
    assert checkpoints(config)[-1] == 8


def test_weights_that_a_step_blew_up_are_no_checkpoint(config):
    """After one step at a rate of 1e30 they are finite, but nothing that they give is."""
    config["train"] |= {"n_iter": 4, "save_checkpoint_freq": 1}
    trainer_of(config).fit()
    config["train"] |= {"n_iter": 7, "optimizer": {"lr": 1e30}}
    resume = Path(config["path"]["root"], "small", "checkpoint", "I4_E2")
    with pytest.raises(UserError, match=r"no checkpoint of the last step, 7.*I4_E2.*lower train.optimizer.lr"):
        trainer_of(config, resume=resume).fit()
    assert checkpoints(config) == [1, 2, 3, 4] and finite(config)


def test_where_nothing_good_was_saved(config):
    trainer = trainer_of(config)
    trainer.forward_backward = lambda *arguments: torch.tensor(torch.nan)
    with pytest.raises(UserError, match=r"nothing good was saved: begin again with a lower train.optimizer.lr"):
        trainer.fit()
    assert not checkpoints(config)


@pytest.mark.parametrize("kind", ["gen", "opt"])
@pytest.mark.parametrize(
    "value", [torch.nan, *(pytest.param(value, marks=pytest.mark.slow) for value in (torch.inf, -torch.inf))]
)
def test_files_with_values_that_are_not_finite_are_refused(config, kind, value):
    """...by name of the tensor; and none is written."""
    config["train"]["n_iter"] = 2
    trainer = trainer_of(config)
    trainer.fit()
    prefix = trainer.last_checkpoint
    file = Path(f"{prefix}_{kind}.safetensors")
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel() > 2)
    tensors[name].view(-1)[1] = value
    save_file(tensors, file, {"config": "{}", "training": "{}"})
    for load in (load_network, load_training_state) if kind == "gen" else (load_training_state,):
        with pytest.raises(UserError, match=f"{file.name}: {name} .*not finite"):
            load(prefix, None) if load is load_training_state else load(prefix)
    with torch.no_grad():
        (trainer.ema.network if kind == "gen" else trainer.network).decoder.output.bias[0] = value
    trainer.is_sound = lambda: True
    trainer.step = 100
    with pytest.raises(UserError, match=r"is not written: .*not finite"):
        trainer.save()
    assert checkpoints(config) == [2]


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_fused_kernels_leave_out_a_step(config, kind, device):
    """As on a GPU, where the host does not know of it: weights, moments and average stay as they are."""
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2).to(device)
    options = check_config(config).train.optimizer.replace(type=kind, lr=0.1)
    optimizer = build_optimizer(network.parameters(), options, torch.device(device), fused=True)
    average = EMA(network, 0.9, 0, 1)
    states = []
    for skip in (1.0, 0.0, 1.0, 0.0):
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, torch.nan if skip else 1.0)
        skip = torch.tensor(skip, device=device)
        step_unless(skip, optimizer)
        before = [tensor.clone() for tensor in average.averages]
        average.update_fused([p.detach() for p in network.parameters()], skip)
        for now, e, w in zip(average.averages, before, network.parameters(), strict=True):
            assert torch.allclose(now, e if skip else e + 0.1 * (w - e)) and (not skip or torch.equal(now, e))
        moments = [value for state in optimizer.state.values() for value in state.values()]
        states.append([tensor.detach().clone() for tensor in (*network.parameters(), *moments)])
    assert all(tensor.isfinite().all() for state in states for tensor in state)
    assert all(torch.equal(skipped, before) for before, skipped in zip(states[1], states[2], strict=True))
    exact = torch.nn.Linear(3, 2)
    torch.manual_seed(0)
    exact.reset_parameters()
    plain = build_optimizer(exact.parameters(), options, torch.device("cpu"))
    for _ in range(2):
        for parameter in exact.parameters():
            parameter.grad = torch.ones_like(parameter)
        plain.step()
    assert all(torch.allclose(a.cpu(), b) for a, b in zip(network.parameters(), exact.parameters(), strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# Images that cannot be read.


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_saves_the_steps_done(config, workers):
    config["datasets"]["train"]["num_workers"] = workers
    config["train"] |= {"save_checkpoint_freq": 100, "n_iter": 100}
    trainer, batches = trainer_of(config), Trainer.batches

    def batches_until_5():
        for batch in batches(trainer):
            if trainer.step == 5:
                Path(config["datasets"]["train"]["dataroot"], "wave3.png").write_bytes(b"no image")
            yield batch

    trainer.batches = batches_until_5
    with pytest.raises(UserError, match=r"wave3\.png"):
        trainer.fit()
    assert checkpoints(config) == [trainer.step] and trainer.step >= 5


@pytest.mark.parametrize("fault", ["an unreadable image", "too little memory"])
def test_a_validation_that_cannot_go_on_saves_the_steps_done(config, tmp_path, little_memory, fault):
    shutil.copytree(config["datasets"]["train"]["dataroot"], tmp_path / "val")
    config["datasets"]["val"] = {**validated(config), "dataroot": str(tmp_path / "val")}
    config["train"] |= {"val_freq": 3, "save_checkpoint_freq": 100}
    trainer = trainer_of(config)
    if fault == "an unreadable image":
        (tmp_path / "val" / "wave1.png").write_bytes(b"no image")
        told = "cannot read image .*wave1.png"
    else:
        little_memory("core.validation", 0)
        told = "not even one image fits into memory"
    with pytest.raises(UserError, match=rf"^datasets\.val: {told}"):
        trainer.fit()
    assert checkpoints(config) == [3]


# ---------------------------------------------------------------------------------------------------------------------
# Signals.


def started(config, tmp_path, pytestconfig, *arguments):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, str(pytestconfig.rootpath / "sr.py"), "--device", "cpu", "-c", str(file), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def read_until(run, beginning):
    for line in run.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(f"the run ended without {beginning!r}: {run.stderr.read()}")


@pytest.fixture(autouse=True)
def without_nohup():
    """SIGHUP has no effect where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("signals", "told"),
    [
        ("INT", "stopping after this step, and saving; Ctrl-C again stops at once"),
        ("TERM", "stopping after this step, and saving; Ctrl-C stops at once"),
        ("HUP TERM", "stopping after this step, and saving; Ctrl-C stops at once"),
        ("USR1", "saving as soon as this step is done, and going on"),
    ],
)
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (0, 2), (1, 2)])
def test_a_signal_is_heard_at_once(capfd, rank, world, signals, told):
    """...by a line of the main process; several processes agree a step late."""
    told = told if world == 1 else told.replace("after this step", "within two steps")
    with stop_requested(Processes(rank, world, torch.device("cpu"))):
        for name in signals.split():
            os.kill(os.getpid(), signal.Signals[f"SIG{name}"])
    assert capfd.readouterr().err == (told + "\n" if rank == 0 else "")


@pytest.mark.parametrize("first", ["INT", "TERM"])
def test_a_second_ctrl_c_stops_at_once(capfd, first):
    with pytest.raises(KeyboardInterrupt), stop_requested(Processes(0, 1, torch.device("cpu"))):
        os.kill(os.getpid(), signal.Signals[f"SIG{first}"])
        os.kill(os.getpid(), signal.SIGINT)


def test_a_validation_that_is_stopped_is_told_of(capfd):
    with stop_requested(Processes(0, 1, torch.device("cpu"))) as stop:
        assert stop.until_asked(lambda: os.kill(os.getpid(), signal.SIGTERM) or "done") is None
    assert capfd.readouterr().err.startswith("stopping this validation, and saving what was trained; Ctrl-C stops")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_signals_save_and_stop(config, tmp_path, pytestconfig, name):
    config["train"] |= {"n_iter": 100_000, "save_checkpoint_freq": 100_000, "print_freq": 1}
    run = started(config, tmp_path, pytestconfig)
    read_until(run, "step 3/")
    run.send_signal(signal.Signals[name])
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.Signals[name] and errors.strip().splitlines()[-1] == "interrupted"
    assert errors.startswith("stopping after this step, and saving; Ctrl-C")
    assert f"asked to stop by {name}" in (tmp_path / "experiments" / "small" / "logs" / "train.log").read_text()
    assert len(checkpoints(config)) == 1


@pytest.mark.slow
def test_a_training_under_nohup_outlives_its_terminal(config, tmp_path, pytestconfig):
    """The terminal's SIGHUP changes nothing; SIGTERM still stops."""
    config["train"] |= {"n_iter": 100_000, "save_checkpoint_freq": 100_000, "print_freq": 1}
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does, for the process that is started
    try:
        run = started(config, tmp_path, pytestconfig)
    finally:
        signal.signal(signal.SIGHUP, before)
    read_until(run, "step 3/")
    run.send_signal(signal.SIGHUP)
    for step in range(4, 10):
        read_until(run, f"step {step}/")
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)
    assert run.returncode == 143 and checkpoints(config)[0] >= 9


@pytest.mark.slow
def test_sigusr1_saves_and_goes_on(config, tmp_path, pytestconfig):
    config["train"] |= {"n_iter": 100_000, "save_checkpoint_freq": 100_000, "print_freq": 1}
    run = started(config, tmp_path, pytestconfig)
    read_until(run, "step 3/")
    run.send_signal(signal.SIGUSR1)
    read_until(run, "saved ")
    read_until(run, "step ")
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)
    assert run.returncode == 143 and len(checkpoints(config)) == 2


@pytest.mark.slow
def test_a_signal_ends_a_validation(config, tmp_path, pytestconfig):
    """One that would take hours is left within seconds, with what was trained saved before it."""
    config["datasets"]["val"] = validated(config)
    config["model"]["beta_schedule"]["val"] = {"n_timestep": 100_000, "linear_start": 1e-6, "linear_end": 1e-4}
    config["sample"] |= {"steps": 100_000}
    config["train"] |= {"n_iter": 100, "val_freq": 3, "save_checkpoint_freq": 100_000, "print_freq": 3}
    run = started(config, tmp_path, pytestconfig)
    read_until(run, "step 3/")
    with pytest.raises(subprocess.TimeoutExpired):
        run.wait(3)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=10)
    assert run.returncode == 143 and checkpoints(config) == [3]


# ---------------------------------------------------------------------------------------------------------------------
# Two trainings in one folder, and trainings that cannot go on.


def refused(config, tmp_path, pytestconfig, *arguments):
    """The one line of a command that is refused."""
    run = started(config, tmp_path, pytestconfig, *arguments)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 2 and len(errors.splitlines()) == 1, errors
    return errors


@pytest.mark.slow
def test_a_second_training_in_a_folder_is_refused(config, tmp_path, pytestconfig):
    """...while the first lives; after it was killed, its half-written files go and another continues."""
    config["train"] |= {"n_iter": 100_000, "print_freq": 1}
    first = started(config, tmp_path, pytestconfig)
    read_until(first, "saved ")
    folder = tmp_path / "experiments" / "small"
    (folder / "checkpoint" / ".0123.tmp").write_bytes(b"half of a file")
    log = (folder / "logs" / "train.log").read_text()
    told = refused(config, tmp_path, pytestconfig, "-r", "auto")
    assert f"process {first.pid} on " in told and "--set name=NAME" in told
    assert "continu" not in (folder / "logs" / "train.log").read_text().removeprefix(log)
    assert (folder / "checkpoint" / ".0123.tmp").exists()
    first.kill()
    first.communicate()
    second = started(config, tmp_path, pytestconfig, "-r", "auto")
    read_until(second, "step ")
    second.kill()
    second.communicate()
    assert not (folder / "checkpoint" / ".0123.tmp").exists()


@pytest.mark.slow
def test_a_validation_may_run_beside_a_training(config, tmp_path, pytestconfig):
    config["datasets"]["val"] = validated(config)
    config["train"] |= {"n_iter": 100_000, "print_freq": 1, "val_freq": 100_000}
    training = started(config, tmp_path, pytestconfig)
    read_until(training, "saved ")
    validation = started(config, tmp_path, pytestconfig, "-p", "val")
    _, errors = validation.communicate(timeout=60)
    training.kill()
    training.communicate()
    assert validation.returncode == 0, errors


def test_a_lock_that_its_file_system_does_not_know(tmp_path, monkeypatch, capsys):
    def unknown(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", unknown)
    claim(tmp_path)
    assert "without locks" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_without_its_training_file_is_not_continued(config, tmp_path, pytestconfig):
    config["train"]["n_iter"] = 4
    trainer_of(config).fit()
    folder = tmp_path / "experiments" / "small" / "checkpoint"
    (folder / "I4_E2_opt.safetensors").unlink()
    told = refused(config, tmp_path, pytestconfig, "-r", "auto")
    assert "I4_E2_opt.safetensors is missing" in told and f"-r {folder / 'I2_E1'}" in told
    told = refused(config, tmp_path, pytestconfig, "-r", str(folder / "I4_E2"))  # it would begin at step 0
    assert "holds checkpoints already" in told
    assert checkpoints(config) == [2, 4]


@pytest.mark.parametrize("key", ["log", "tb_logger", "checkpoint", "results", "results_sr", "process"])
def test_a_folder_that_cannot_be_written_is_found_at_once(config, tmp_path, key):
    """Here a file is in its place, which stops the superuser too."""
    config["datasets"]["val"] = validated(config)
    file = tmp_path / "experiments" / "small" / config["path"][key]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("a file")
    for phase in ("train", "val"):
        if phase == "train" or key not in ("tb_logger", "checkpoint"):
            with pytest.raises(DataError, match=f"cannot write into .*{config['path'][key]}"):
                open_folders(check_config(config | {"phase": phase}))


FULL_DISK = """
import resource, sys, time
from core.training.board import Board
from core.log import start_logging
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # as on a full disk, no file grows
log = start_logging(sys.argv[1], "train")
board = Board(sys.argv[1])
for step in range(100):
    log.info(f"step {step}")
    board.scalars({"loss": 1.0}, step)
    time.sleep(0.01)
board.close()
"""


@pytest.mark.slow
def test_a_full_disk_ends_logs_and_not_the_training(tmp_path, pytestconfig):
    environment = os.environ | {"PYTHONPATH": str(pytestconfig.rootpath)}
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0 and done.stdout.splitlines() == [f"step {step}" for step in range(100)]
    first, second = sorted(done.stderr.splitlines())
    assert first.startswith("warning: /") and "train.log lacks lines" in first
    assert second.startswith("warning: TensorBoard") and "File too large" in second


# ---------------------------------------------------------------------------------------------------------------------
# Which checkpoints are kept.


@pytest.mark.slow
def test_old_checkpoints_are_removed(config):
    """All but the two newest; never one that is not the training's own, nor the one that it continued from."""
    config["train"] |= {"save_checkpoint_freq": 1, "keep_checkpoints": 2, "n_iter": 4}
    folder = Path(config["path"]["root"], "small", "checkpoint")
    trainer_of(config).fit()
    assert checkpoints(config) == [3, 4] and len(list(folder.glob("*_opt.*"))) == 2
    (folder / "I1_E1_gen.safetensors").write_bytes((folder / "I3_E2_gen.safetensors").read_bytes())
    config["train"]["n_iter"] = 7
    trainer_of(config, resume=folder / "I4_E2").fit()
    assert checkpoints(config) == [1, 4, 6, 7]
    config["train"]["n_iter"] = 9
    trainer_of(config, resume=folder / "I7_E3").fit()
    assert checkpoints(config) == [1, 7, 8, 9]
    config["train"]["n_iter"] = 11
    trainer_of(config, resume=folder / "I7_E3").fit()  # in which I9 is written anew
    assert checkpoints(config) == [1, 7, 10, 11]


def test_the_best_of_a_validation_is_kept(config):
    config["train"] |= {"save_checkpoint_freq": 1, "keep_checkpoints": 1, "n_iter": 6, "val_freq": 1}
    trainer = trainer_of(config)
    psnr = dict(zip(range(1, 7), (20, 19, 23, 22, 21, 21), strict=True))

    def validate(stop):
        trainer.kept.score(Path(trainer.last_checkpoint).name, psnr[trainer.step])
        return True

    trainer.validate = validate
    trainer.fit()
    assert checkpoints(config) == [3, 6]
