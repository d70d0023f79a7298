"""Signals during training, so that nothing is lost: each is a wish, and all processes grant it after the same step.

Ctrl-C, SIGTERM, SIGHUP and SIGQUIT: save and stop. SIGUSR1: save and go on. Where one process runs under nohup, SIGHUP
has no effect.
"""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

import torch

from core.device import LateReading
from core.errors import Interrupted, UserError
from core.processes import Processes
from data import DataError

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
SAVING = signal.SIGUSR1
STDERR = 2  # its file descriptor

T = TypeVar("T")


class Stop:
    """Whether this process has been asked to stop or to save, and whether all of them do."""

    def __init__(self, processes: Processes):
        self.processes = processes
        self.signal = 0  # that asked to stop
        self.problem: DataError | UserError | None = None  # why training cannot go on
        self.save_asked = False
        self.at_once = False  # whether a signal interrupts what is running
        self.votes = LateReading()

    @property
    def asked(self) -> bool:
        return bool(self.signal or self.problem)

    def say(self, line: str) -> None:
        """Writes a line of the main process on stderr, past what the interrupted code may be writing: a handler of
        signals must not use what is in use. On a terminal it begins anew, below the progress bar."""
        if self.processes.is_main:
            with suppress(OSError):
                os.write(STDERR, (b"\n" if os.isatty(STDERR) else b"") + f"{line}\n".encode())

    def agreed(self, last: bool = False) -> tuple[bool, bool]:
        """Called by all processes after each step -> (whether to stop, whether to save).

        That is so if any process had been asked by the end of the step before: one step late, the host need not wait
        for the device. At the last step it waits.
        """
        wishes = self.asked, self.save_asked
        self.save_asked = False
        if self.processes.world == 1:
            return wishes
        device = self.processes.device
        votes = torch.stack([torch.full((), float(wish), device=device) for wish in wishes])  # a copy there would wait
        self.processes.sum(votes)
        before = self.votes.exchange(votes)
        stop, save = (before + votes.cpu() if last else before).tolist()
        return bool(stop), bool(save)

    def batches(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches; from an unreadable image on, None, so that this process takes part in steps, which then change
        nothing, until all have agreed to stop."""
        try:
            yield from batches
        except DataError as error:
            self.problem = error
        while self.problem:
            yield None

    def until_asked(self, work: Callable[[], T]) -> T | None:
        """Does some work -> its result, or None where a signal to stop came before its end."""
        self.at_once = True
        try:
            return None if self.asked else work()
        except Interrupted:
            return None
        finally:
            self.at_once = False

    def raise_cause(self) -> None:
        """Raises, in all processes alike, what one of them stopped for."""
        asked = self.processes.gather((self.signal, str(self.problem or "")))
        for problem in filter(None, (problem for _, problem in asked)):
            raise UserError(problem)
        if number := max(number for number, _ in asked):
            raise Interrupted(number)


def stopping_signals() -> list[signal.Signals]:
    """Those that ask to stop: all but SIGHUP where this process began under nohup, which ignores it."""
    return [s for s in STOPPING if s != signal.SIGHUP or signal.getsignal(s) is not signal.SIG_IGN]


@contextmanager
def handled(handle: Callable[[int, FrameType | None], None], signals: Iterable[signal.Signals]) -> Iterator[None]:
    """While inside, these signals call `handle`."""
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_at_once() -> Iterator[None]:
    """While inside, the first signal that asks to stop raises Interrupted, so that what was begun is put away."""
    signals = stopping_signals()

    def handle(number: int, frame: FrameType | None) -> None:
        for further in signals:  # torchrun and SLURM may each send one
            signal.signal(further, signal.SIG_IGN)
        raise Interrupted(number)

    with handled(handle, signals):
        yield


@contextmanager
def stop_requested(processes: Processes) -> Iterator[Stop]:
    """While inside, signals only ask to stop or to save, so that a step is finished and saved -> Stop.

    A second Ctrl-C stops at once; a second SIGTERM does not, as torchrun and SLURM may each send one. The main process
    says at once that it has heard.
    """
    stop = Stop(processes)

    def handle(number: int, frame: FrameType | None) -> None:
        if number == SAVING:
            stop.save_asked = True
            stop.say("saving as soon as this step is done, and going on")
            return
        if number == signal.SIGINT and stop.asked:
            raise KeyboardInterrupt
        if not stop.asked:
            when = "after this step" if processes.world == 1 else "within two steps"  # see `Stop.agreed`
            what = "this validation, and saving what was trained" if stop.at_once else f"{when}, and saving"
            stop.say(f"stopping {what}; Ctrl-C{' again' if number == signal.SIGINT else ''} stops at once")
        stop.signal = stop.signal or number
        if stop.at_once:
            stop.at_once = False
            raise Interrupted(number)

    with handled(handle, [*stopping_signals(), SAVING]):
        yield stop
