"""How training reads: the batches of one process, one after the other, for ever."""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from data.dataset import SRDataset
from data.mixture import MixedStream, Mixture
from data.stream import TrainStream


def train_loader(
    images: SRDataset | Mixture,
    batch_size: int | Sequence[int],  # samples of a step, in each process; of a mixture, those of each set
    seed: int,
    rank: int = 0,
    world: int = 1,
    start_step: int = 0,
    workers: int = 0,  # processes that read; 0: this one does
    pin_memory: bool = False,
) -> DataLoader:
    """The endless batches of one process from a step on: {"lr": float32 (B, 3, l, l), "hr": float32 (B, 3, r, r), ...}.

    They are the same whatever `workers` is. Here the dataset's cache is filled, which the readers share.
    """
    images.fill_cache()
    sampler: TrainStream | MixedStream
    if isinstance(images, Mixture):
        assert isinstance(batch_size, Sequence)
        sampler = MixedStream(images, batch_size, seed, rank, world, start_step)
    else:
        assert isinstance(batch_size, int)
        sampler = TrainStream(len(images), batch_size, seed, rank, world, start_step, images.weights)
    forked = images.cache_mb and workers and sys.platform == "linux"  # others would get a copy of the cache each
    return Readers(
        images,
        batch_sampler=sampler,
        num_workers=workers,
        worker_init_fn=obey_parent_alone,
        pin_memory=pin_memory,
        multiprocessing_context="fork" if forked else None,
    )


class Readers(DataLoader):
    """A DataLoader whose processes block SIGTERM from their first moment. How many they are is the user's to choose: it
    does not warn of more than there are cores.

    Libraries start threads in a new process before `obey_parent_alone` is called. One thread that does not block the
    signal is enough to end a process.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            super().__init__(*arguments, **options)

    def __iter__(self) -> Any:
        with termination_blocked():
            return super().__iter__()


@contextmanager
def termination_blocked() -> Iterator[None]:
    """Processes that start meanwhile block SIGTERM; one that comes meanwhile arrives after."""
    if not hasattr(signal, "sigwaitinfo"):  # there is none on macOS, where any SIGTERM ends a reader
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent_alone(worker: int) -> None:
    """Lets a reading process live as long as its parent wants it to.

    Terminals, torchrun and SLURM signal all processes of a job at once, and the parent that then finishes and saves its
    step would find its readers dead.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_parent_asks, daemon=True).start()


def _end_when_parent_asks() -> None:
    parent = multiprocessing.parent_process()
    while parent and signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)
