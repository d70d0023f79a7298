"""The phases of a run: what sr.py does once its flags are read."""

from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from logging import Logger
from pathlib import Path
from typing import TypeVar

from torch.distributed.elastic.multiprocessing.errors import record

from core.checkpoint.files import load_checkpoint, saved_config
from core.config import Config, config_notices
from core.config.notices import of_another_chain, untaught
from core.config.wording import show
from core.device import compute_deterministically, show_gpus
from core.experiment import (
    Refusable,
    checkpoint_to_resume,
    checkpoint_to_validate,
    experiment_folder,
    open_folders,
)
from core.log import start_logging
from core.processes import Processes
from core.sampling.super_resolution import Sampling
from core.training.batch_memory import refuse_huge_batches
from core.training.board import Board, start_wandb, wandb_module
from core.training.distillation import DistillationTrainer
from core.training.stopping import stop_at_once
from core.training.trainer import Trainer
from core.validation import check_validation, validate_all, write_pages

T = TypeVar("T")


@record  # a traceback reaches the report of torchrun
def run_phase(config: Config, arguments: Namespace) -> None:
    """Trains, distils or validates, as the config's phase says; `arguments` are those of sr.py."""
    if arguments.gpu_ids:
        show_gpus(arguments.gpu_ids)
    if arguments.deterministic:
        compute_deterministically()
    processes = Processes.from_environment(arguments.device)
    is_alone = processes.world == 1  # of several, one that stops would leave the others waiting
    at_once = stop_at_once() if is_alone else nullcontext()
    run = Refusable(config, processes.is_main)
    with at_once, run:
        work = set_up(config, arguments, processes, run.keep)
    with run:  # which may still be refused for its first images
        work()
    processes.close()


def set_up(config: Config, arguments: Namespace, processes: Processes, begun: Callable[[], None]) -> Callable[[], None]:
    """Everything that a run may be refused for -> its work, which calls `begun` when it has done something."""
    if config.phase != "val":
        refuse_huge_batches(config, processes.device)
    processes.on_main(lambda: open_folders(config))
    log = start_logging(experiment_folder(config)("log"), config.phase, processes.is_main)
    uses_wandb = arguments.enable_wandb and processes.is_main
    if uses_wandb:
        wandb_module()  # which may be missing; its run begins when nothing can be refused any more
    resume = arguments.resume or config.path.resume_state
    set_up_phase = set_up_validation if config.phase == "val" else set_up_training
    work = set_up_phase(config, processes, log, resume, uses_wandb, begun)

    def tell_and_work() -> None:  # notices only now: a run that is refused leaves nothing in the log
        for notice in notices(config, arguments):
            log.info(notice)
        work()

    return tell_and_work


def notices(config: Config, arguments: Namespace) -> list[str]:
    """What has no effect, of the config and of the flags."""
    epochs = [] if arguments.epochs is None else ["--epochs has no effect: train.n_iter counts the steps of a run"]
    given = (
        {"--density", "--prune", "--growth", "--redistribution", "--prune-rate"} if not config.sparse.enabled else ()
    )
    unused = [flag for flag in sorted(given) if getattr(arguments, flag[2:].replace("-", "_"), None) is not None]
    dense = [f"{flag} has no effect: sparse.enabled is false; add --sparse" for flag in unused]
    return config_notices(config) + epochs + dense


def set_up_training(
    config: Config,
    processes: Processes,
    log: Logger,
    resume: str | None,
    uses_wandb: bool,
    begun: Callable[[], None],
) -> Callable[[], None]:
    checkpoint = found(processes, checkpoint_to_resume, config, resume)
    trainer = (DistillationTrainer if config.phase == "distill" else Trainer)(config, processes, log, checkpoint)
    if uses_wandb:
        trainer.board.mirror = start_wandb(config.wandb.project, config.name)
    trainer.begun = begun
    return trainer.fit


def set_up_validation(
    config: Config,
    processes: Processes,
    log: Logger,
    resume: str | None,
    uses_wandb: bool,
    begun: Callable[[], None],
) -> Callable[[], None]:
    checkpoint = found(processes, checkpoint_to_validate, config, resume)
    loaded = load_checkpoint(checkpoint, processes.device, config)
    sampling = Sampling.of(config.sample, loaded.network.schedule, loaded.encoder_change)
    processes.on_main(lambda: check_validation(config, processes.device))
    mirror = start_wandb(config.wandb.project, config.name) if uses_wandb else None

    def validate() -> None:
        for notice in notices_on_chain(config, checkpoint):
            log.info(notice)
        begun()
        reports = validate_all(loaded.network, config, sampling, processes, loaded.step, log, checkpoint=checkpoint)
        Board(None, mirror=mirror).reports(reports, loaded.step)
        processes.on_main(lambda: write_pages(config, log))

    return validate


def notices_on_chain(config: Config, checkpoint: str | Path) -> list[str]:
    """What is to be said where a student is validated with another chain than it learnt."""
    own = saved_config(checkpoint)
    if own is None or not (keys := untaught(own, config.sample)):
        return []
    taught = ", ".join(f"sample.{key}={show(own.sample[key])}" for key in keys)
    return [of_another_chain(checkpoint, own, f"set {taught}")]


def found(processes: Processes, find: Callable[[Config, str | None], T], config: Config, resume: str | None) -> T:
    """The checkpoint that the main process finds: a folder that machines share may not look the same on all at once."""
    return processes.on_main(lambda: find(config, resume))
