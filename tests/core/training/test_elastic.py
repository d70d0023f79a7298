"""Runs under torchrun that are disturbed: killed, stopped, wrong from the start."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.distributed import HashStore
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from core.attempt_store import agree_on_prefix
from core.config import check_config
from core.errors import UserError, one_line_errors
from core.processes import Processes
from core.training.stopping import stop_requested

TRAIN = {
    "n_iter": 12,
    "val_freq": 1000,
    "save_checkpoint_freq": 4,
    "print_freq": 1,
    "continuous_scale": False,
    "optimizer": {"lr": 1e-3},
    "ema_scheduler": {"step_start_ema": 2, "ema_decay": 0.5},
}


@pytest.fixture
def config(small_config):
    """The small experiment, to be trained sparse on its five images in batches of one in each of two processes."""
    images = small_config.to_dict()["datasets"]["val"] | {"batch_size": 1, "augment": True}
    changes = {"train": dict(TRAIN), "sparse": {"update_every": 3, "update_until": 1.0}}
    return check_config(small_config.to_dict() | changes | {"datasets": {"train": images}}).to_dict()


@pytest.fixture
def torchrun(config, tmp_path, pytestconfig):
    """torchrun(*arguments of sr.py, script=sr.py, max_restarts=0, **changes to the config) -> the running process."""

    @contextmanager
    def start(*arguments, script=pytestconfig.rootpath / "sr.py", max_restarts=0, **changes):
        file = tmp_path / f"{changes.get('name', 'config')}.yaml"
        file.write_text(yaml.safe_dump(config | changes))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command = [sys.executable, *launcher, f"--max-restarts={max_restarts}", str(script), "-c", str(file)]
        run = subprocess.Popen(
            [*command, "--device", "cpu", *arguments],
            stdout=subprocess.PIPE,
            stderr=(tmp_path / "stderr").open("w"),
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(pytestconfig.rootpath)},
        )
        timer = threading.Timer(120, run.kill)
        timer.start()
        try:
            yield run
        finally:
            timer.cancel()
            run.terminate()
            run.wait()
            run.stdout.close()

    return start


def read_until(run, beginning):
    """The lines that the run prints, up to the first with this beginning."""
    lines = []
    for line in run.stdout:
        lines.append(line)
        if line.startswith(beginning):
            return lines
    raise AssertionError(f"the run ended without {beginning!r}: {''.join(lines)}")


def process_of_rank(run, rank):
    """The id of the process that torchrun started as this rank."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (folder / "environ").read_bytes().split(b"\0") if parent == run.pid else []
        except OSError:  # it has ended meanwhile
            continue
        if f"RANK={rank}".encode() in environment:
            return int(folder.name)
    raise AssertionError(f"there is no rank {rank}")


def losses(lines):
    """{step: loss, as printed}."""
    return dict(re.findall(r"step (\d+)/.*  loss (\S+)", "".join(lines)))


def tensors(experiment, prefix):
    folder = experiment / "checkpoint"
    loaded = {kind: load_file(folder / f"{prefix}_{kind}.safetensors") for kind in ("gen", "opt")}
    return {f"{kind}/{key}": tensor for kind, found in loaded.items() for key, tensor in found.items()}


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
def test_a_killed_process_is_restarted(torchrun, tmp_path):
    """Both processes start again, continue the last checkpoint, and end where an undisturbed run ends, to the bit."""
    with torchrun(name="undisturbed") as run:
        whole = run.stdout.readlines()
        assert run.wait() == 0, (tmp_path / "stderr").read_text()

    experiment = tmp_path / "experiments" / "disturbed"
    leftover = experiment / "checkpoint" / ".0123.tmp"
    with torchrun("-r", "auto", name="disturbed", max_restarts=1) as run:
        first = read_until(run, "step 6/12")
        leftover.write_bytes(b"what a process killed while it wrote leaves")
        os.kill(process_of_rank(run, 1), signal.SIGKILL)
        second = run.stdout.readlines()
        assert run.wait() == 0, (tmp_path / "stderr").read_text()

    assert any("step 4 → 12" in line for line in second) and not leftover.exists()
    assert losses(whole) == losses(first + second) and len(losses(whole)) == 12
    undisturbed, disturbed = tensors(tmp_path / "experiments" / "undisturbed", "I12_E5"), tensors(experiment, "I12_E5")
    assert undisturbed.keys() == disturbed.keys()
    assert not [key for key in undisturbed if not torch.equal(undisturbed[key], disturbed[key])]
    assert len(list((experiment / "tb_logger").iterdir())) == 2  # one of each attempt, by rank 0 alone
    assert (experiment / "logs" / "train.log").read_text().count("step 4 → 12") == 1


@pytest.mark.slow
def test_a_stopped_run_is_saved(torchrun, config, tmp_path):
    """All processes stop after the same step, with readers that were sent the signal too."""
    images = config["datasets"]["train"] | {"num_workers": 1}
    changes = {"train": config["train"] | {"n_iter": 10_000, "save_checkpoint_freq": 10_000}}
    with torchrun(name="stopped", datasets={"train": images}, **changes) as run:
        read_until(run, "step 3/")
        run.send_signal(signal.SIGTERM)
        lines = run.stdout.readlines()
        run.wait()
    errors = (tmp_path / "stderr").read_text().splitlines()
    assert "interrupted" in errors and not [line for line in errors if line.startswith("[rank")]
    last = int(re.findall(r"step (\d+)/", "".join(lines))[-1])
    (saved,) = (tmp_path / "experiments" / "stopped" / "checkpoint").glob("*_gen.safetensors")
    assert saved.name.startswith(f"I{last}_")


@pytest.mark.slow
def test_a_process_that_fails_ends_all_with_its_traceback(torchrun, tmp_path):
    script = tmp_path / "fails.py"
    script.write_text(
        "import os, time, sr, core.phases\n"
        "class Trainer:\n"
        "    def __init__(self, *arguments): pass\n"
        "    def fit(self): time.sleep(60) if os.environ['RANK'] == '0' else 1 / 0\n"
        "core.phases.Trainer = Trainer\n"
        "sr.main()\n"
    )
    with torchrun(script=script) as run:
        assert run.wait() != 0
    errors = (tmp_path / "stderr").read_text()
    report = errors.split("Root Cause")[1]
    assert "[rank1]: ZeroDivisionError" in errors and "ZeroDivisionError" in report and "rank      : 1" in report


DISTURBED = """
import os, torch, core.phases, core.training.trainer, sr
from data import DataError

kind, rank = os.environ["DISTURBANCE"], int(os.environ["RANK"])


class Trainer(core.training.trainer.Trainer):
    def train_step(self, batch):
        if kind == "nan" and rank == 1 and self.step == 5:
            batch = batch | {"lr": batch["lr"] * torch.nan}
        super().train_step(batch)

    def batches(self):
        for batch in super().batches():
            if kind == "image" and rank == 1 and self.step == 6:
                raise DataError("face.png: cannot be read")
            yield batch


def full(*arguments):
    raise DataError("cannot write I4: No space left on device")


core.phases.Trainer = Trainer
if kind == "disk":
    core.training.trainer.save_checkpoint = full
sr.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nan", "image", "disk"])
def test_what_disturbs_one_process_ends_or_spares_all(torchrun, config, tmp_path, monkeypatch, kind):
    """NaN in one: the step changes nothing in any. An image that one cannot read: all save the steps done. A full disk:
    all end. The cause is said once."""
    monkeypatch.setenv("DISTURBANCE", kind)
    script = tmp_path / "disturbed.py"
    script.write_text(DISTURBED)
    with torchrun("-r", "auto", name=kind, script=script) as run:
        lines = run.stdout.readlines()
        code = run.wait()
    errors = (tmp_path / "stderr").read_text()
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    experiment = tmp_path / "experiments" / kind
    found = sorted(file.name for file in (experiment / "checkpoint").glob("*_gen.safetensors"))
    if kind == "nan":
        assert code == 0, errors
        assert [line for line in lines if "1 skipped" in line] == [line for line in lines if line.startswith("step 6/")]
        assert found == ["I12_E5_gen.safetensors", "I4_E2_gen.safetensors", "I8_E4_gen.safetensors"]
        assert all(t.isfinite().all() for t in tensors(experiment, "I12_E5").values() if t.is_floating_point())
    elif kind == "image":
        assert code != 0 and told == ["error: face.png: cannot be read"]
        assert found == ["I4_E2_gen.safetensors", "I6_E3_gen.safetensors"]
    else:
        assert code != 0 and told == ["error: cannot write I4: No space left on device"] and not found
    assert "[rank" not in errors


IMPATIENT = """
import datetime
import sr
from core.processes import Processes

Processes.from_environment.__func__.__defaults__ = ("auto", datetime.timedelta(seconds=10))
sr.main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
def test_a_process_that_hangs_is_given_up(torchrun, tmp_path):
    """One that is stopped as by SIGSTOP: after the time-out the other ends, one line names the cause, and the last
    checkpoint is whole."""
    script = tmp_path / "impatient.py"
    script.write_text(IMPATIENT)
    with torchrun("-r", "auto", name="hangs", script=script) as run:
        read_until(run, "step 6/12")
        os.kill(process_of_rank(run, 1), signal.SIGSTOP)
        began = time.monotonic()
        run.stdout.readlines()
        code = run.wait()
    errors = (tmp_path / "stderr").read_text()
    assert code != 0 and time.monotonic() - began < 10 + 60, errors  # torchrun gives a process 30 s to obey SIGTERM
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and "another process" in told[0], errors
    found = sorted(file.name for file in (tmp_path / "experiments/hangs/checkpoint").glob("*"))
    assert found == ["I4_E2_gen.safetensors", "I4_E2_opt.safetensors", "written.json"]


# ---------------------------------------------------------------------------------------------------------------------


def test_a_mistake_that_all_processes_find_is_told_once(tmp_path, monkeypatch, capsys):
    """...on a terminal, and by each of them in the file that torchrun reads."""
    for rank in range(3):
        file = tmp_path / "attempt_0" / str(rank) / "error.json"
        file.parent.mkdir(parents=True)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
        with pytest.raises(SystemExit), one_line_errors():
            raise UserError("key is 1,\nbut must be 2")
        failure = ProcessFailure(local_rank=rank, pid=1, exitcode=2, error_file=str(file))
        told = ChildFailedError("sr.py", {rank: failure}).format_msg()
        assert "traceback : error: key is 1, but must be 2\n" in told
    assert capsys.readouterr().err == "error: key is 1, but must be 2\n"


ENDED_AT_ITS_FIRST_BYTE = """
import resource
import signal
from core.errors import UserError, one_line_errors

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
with one_line_errors():
    raise UserError("another process has ended")
"""


def test_a_process_that_is_ended_while_it_tells_torchrun_leaves_no_half_of_it(tmp_path, pytestconfig):
    """torchrun ends those that are left as soon as one has failed, reads what they told, and fails if it cannot."""
    file = tmp_path / "attempt_0" / "1" / "error.json"
    file.parent.mkdir(parents=True)
    environment = os.environ | {"TORCHELASTIC_ERROR_FILE": str(file), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", ENDED_AT_ITS_FIRST_BYTE]
    ended = subprocess.run(command, cwd=pytestconfig.rootpath, env=environment)
    assert ended.returncode == -signal.SIGXFSZ
    failure = ProcessFailure(local_rank=1, pid=1, exitcode=ended.returncode, error_file=str(file))
    assert "Signal 25 (SIGXFSZ)" in failure.message


def test_attempts_share_a_store_and_no_prefix():
    """A new attempt finds the keys of the one before, and processes come in any order."""
    store, world, timeout = HashStore(), 4, timedelta(seconds=20)
    store.set_timeout(timeout)
    attempts = []
    with ThreadPoolExecutor(world) as pool:
        for order in ((0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)):
            found = [pool.submit(agree_on_prefix, store, rank, world, timeout) for rank in order]
            (prefix,) = {future.result() for future in found}
            attempts.append(prefix)
    assert len(set(attempts)) == 3


def test_a_missing_process_is_named():
    with pytest.raises(TimeoutError, match=r"ranks \[1\]"):
        agree_on_prefix(HashStore(), 0, 2, timedelta(seconds=0.1))


def test_the_second_interrupt_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with stop_requested(Processes(0, 1, torch.device("cpu"))) as stop:
        assert stop.agreed() == (False, False)
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert stop.agreed() == (True, False)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
