"""An experiment's folder: where its files go, and from which of its checkpoints a command goes on."""

from collections.abc import Callable
from pathlib import Path

from core.checkpoint import latest_prefix
from core.config import Config
from core.errors import UserError
from data.files import remove_unfinished


def experiment_folder(config: Config) -> Callable[[str], Path]:
    """A function from a key of config.path to the folder that it names, in `experiments/<name>/`."""
    root = Path(config.path.root) / config.name
    return lambda key: root / config.path[key]


def remove_unfinished_checkpoints(config: Config) -> None:
    """Removes what a process that was killed had half written. For the main process, before it writes."""
    remove_unfinished(experiment_folder(config)("checkpoint"))


def checkpoint_to_resume(config: Config, resume: str | None) -> str | Path | None:
    """The checkpoint that training continues from, or None to start afresh.

    `resume` is a checkpoint, "auto" for the latest of the experiment if it has one, or None; a fresh start where the
    experiment has checkpoints already would mix two runs, and is refused.
    """
    folder = experiment_folder(config)("checkpoint")
    latest = latest_prefix(folder) if folder.is_dir() else None
    if resume == "auto":
        return latest
    if resume is None and latest is not None:
        raise UserError(
            f"{folder} holds checkpoints already: continue that run with -r auto, or start another with --set name=NAME"
        )
    return resume


def checkpoint_to_validate(config: Config, resume: str | None) -> str | Path:
    """The checkpoint that was asked for, or the latest of the experiment."""
    if resume is not None and resume != "auto":
        return resume
    folder = experiment_folder(config)("checkpoint")
    latest = latest_prefix(folder) if folder.is_dir() else None
    if latest is None:
        raise UserError(f"no checkpoint to validate: give one with -r, or train first (none in {folder})")
    return latest
