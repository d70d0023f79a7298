"""An experiment's folder: where its files go, who writes there, and from which of its checkpoints a command goes on."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from core.checkpoint.files import find_checkpoint
from core.checkpoint.lost_files import refuse_lost, tell_lost
from core.config import Config
from core.errors import UserError
from core.log import warn
from data.errors import reason
from data.files import make_writable, missing_folders, remove_empty, remove_unfinished
from data.paths import is_folder, is_there
from sparse.checkpoint_files import latest_prefix

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
SECONDS_TO_WAIT_FOR_LOCK = 10  # of the process before, where torchrun has started this one anew
SECONDS_TO_CLEAN_UP = 1  # for the main process: torchrun ends all as soon as one has ended
_locks: list[TextIO] = []  # that this process holds, until it ends


def experiment_folder(config: Config) -> Callable[[str], Path]:
    """A function from a key of config.path to the folder that it names, in `experiments/<name>/`."""
    root = Path(config.path.root) / config.name
    return lambda key: root / config.path[key]


class Refusable:
    """A run that may be refused, for `with`: if the body fails, the main process removes the folders and files that the
    run made, unless `keep` was called.

    Whatever was there before stays, and so does what another run has put into these folders meanwhile.
    """

    def __init__(self, config: Config, is_main: bool) -> None:
        folder, self.is_main, self.is_kept = experiment_folder(config), is_main, False
        self.is_validation = config.phase == "val"
        self.lock, self.log = Path(config.path.root) / config.name / ".lock", folder("log") / f"{config.phase}.log"
        self.board = None if self.is_validation else folder("tb_logger")
        self.there = {file for file in (self.lock, self.log, *self.events()) if is_there(file)}
        self.missing = {path for folder in folders_to_open(config) for path in missing_folders(folder)}

    def keep(self) -> None:
        """From here on the run is not refused any more, whatever happens."""
        self.is_kept = True

    def events(self) -> list[Path]:
        """The files of TensorBoard."""
        return list(self.board.glob("events.*")) if self.board else []

    def __enter__(self) -> "Refusable":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or self.is_kept:
            return
        if not self.is_main:
            time.sleep(SECONDS_TO_CLEAN_UP)
            return
        held = [own for own in _locks if own.name == str(self.lock)]
        files = [self.log] if self.is_validation else [self.lock, self.log, *self.events()]
        for file in files if held or self.is_validation else []:  # else they are of the run that holds the lock
            if file not in self.there:
                with suppress(OSError):
                    file.unlink()
        remove_empty(self.missing)
        for own in held:
            _locks.remove(own)
            own.close()


def folders_to_open(config: Config) -> list[Path]:
    """The folders that the config's phase writes to."""
    keys = ["log"]
    if config.phase != "val":
        keys += ["tb_logger", "checkpoint"]
    if config.datasets.validation:
        keys += ["results", "results_sr", "results_hr", "results_lr", "process"]
    return list(map(experiment_folder(config), keys))


def open_folders(config: Config) -> None:
    """Makes the folders that the config's phase writes to, before it computes anything; a training keeps the experiment
    to itself. For the main process. Raises UserError or DataError, where one cannot be written to."""
    folder = experiment_folder(config)
    make_writable(Path(config.path.root) / config.name)
    if config.phase != "val":
        claim(Path(config.path.root) / config.name)
    for path in folders_to_open(config):
        make_writable(path)
    for file in (folder("results") / name for name in ("metrics.json", "report.html")):
        if is_folder(file):
            raise UserError(f"cannot write {file}: it is a folder")
    if config.phase != "val":
        remove_unfinished(folder("checkpoint"))


def claim(folder: Path) -> None:
    """Keeps an experiment's folder to the training of this process, until the process ends, however it does.

    The lock is POSIX's, which NFS and the file systems of clusters keep for all machines, and which processes that read
    images do not inherit. The file tells who holds it.
    """
    deadline = time.monotonic() + (SECONDS_TO_WAIT_FOR_LOCK if "TORCHELASTIC_RUN_ID" in os.environ else 0)
    try:
        lock = (folder / ".lock").open("a+")
        while True:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if has_its_name(lock):
                    break
                lock = (folder / ".lock").open("a+")  # a run that was refused has removed its own
            except (BlockingIOError, PermissionError):  # what it is depends on the system
                if time.monotonic() >= deadline:
                    lock.seek(0)
                    holder = " ".join(lock.read().split()) or "another process"
                    advice = "let it end, or start another training with --set name=NAME"
                    raise UserError(f"{folder} is written to by {holder}: {advice}") from None
                time.sleep(0.2)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        lock.flush()
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise UserError(f"cannot lock {folder}: {reason(error)}; give another path.root") from None
        warn(f"{folder} is on a file system without locks: see to it that no other training writes there")
    _locks.append(lock)


def has_its_name(file: TextIO) -> bool:
    """Whether an open file has not been removed, or replaced by another."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), Path(file.name).stat())
    except FileNotFoundError:
        return False


def checkpoint_to_resume(config: Config, resume: str | None) -> str | Path | None:
    """The checkpoint that training continues from, or None to start afresh.

    `resume` is a checkpoint, "auto" for the latest of the experiment if it has one, or None. Where the latest has lost
    one of its files, auto is refused.
    """
    folder = experiment_folder(config)("checkpoint")
    latest = latest_prefix(folder) if is_folder(folder) else None
    if resume in ("auto", None) and (left := refuse_lost(folder)):
        warn(left)
    if resume == "auto":
        if latest and not (files := find_checkpoint(latest)).training:
            whole = latest_prefix(folder, whole=True)
            other = f"-r {whole}, the latest that is whole" if whole else f"-r {latest} and --set name=NAME"
            raise UserError(
                f"{latest}_opt{files.network.suffix} is missing, without which training cannot continue that "
                f"checkpoint: put it back, or begin from {other}"
            )
        return latest
    if resume is None:
        refuse_fresh_start(config)
    return resume and latest_at(resume)


def refuse_fresh_start(config: Config) -> None:
    """Raises UserError where the experiment has checkpoints already: a training from step 0 would mix two."""
    folder = experiment_folder(config)("checkpoint")
    refuse_lost(folder)
    if is_folder(folder) and latest_prefix(folder) is not None:
        raise UserError(
            f"{folder} holds checkpoints already: continue that run with -r auto, or start another with --set name=NAME"
        )


def checkpoint_to_validate(config: Config, resume: str | None) -> str | Path:
    """The checkpoint that was asked for, or the latest of the experiment."""
    if resume is not None and resume != "auto":
        return latest_at(resume)
    folder = experiment_folder(config)("checkpoint")
    if not is_folder(folder) or latest_prefix(folder) is None:
        raise UserError(f"no checkpoint to validate: give one with -r, or train first (none in {folder})")
    return latest_at(folder)


def latest_at(checkpoint: str | Path) -> str | Path:
    """The checkpoint that is named; of a folder, the latest in it. By another look, there may be a newer one."""
    latest = latest_prefix(checkpoint) if is_folder(checkpoint) else None
    if latest:
        tell_lost(Path(checkpoint), latest)
    return latest or checkpoint
