"""Stopping a run so that nothing is lost: a signal is a wish, and all processes stop after the same step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch import Tensor

from core.processes import Processes


class Stop:
    """Whether this process has been asked to stop, and whether all of them do."""

    def __init__(self, processes: Processes):
        self.processes = processes
        self.asked = False
        # Of the step before: (number of processes that were asked to stop, when it is on the host).
        self.vote: tuple[Tensor, torch.cuda.Event | None] | None = None

    def agreed(self) -> bool:
        """Called by all processes after each step: whether any of them had been asked by the end of the step before.

        One step late, the host need not wait for the device, which still has the step just launched to do.
        """
        if self.processes.world == 1:
            return self.asked
        before, self.vote = self.vote, self._ballot()
        if before is None:
            return False
        votes, counted = before
        if counted:
            counted.synchronize()
        return bool(votes)

    def _ballot(self) -> tuple[Tensor, torch.cuda.Event | None]:
        device = self.processes.device
        votes = torch.full((), float(self.asked), device=device)
        self.processes.sum(votes)
        if device.type == "cpu":
            return votes, None
        on_host = torch.empty((), pin_memory=True).copy_(votes, non_blocking=True)
        counted = torch.cuda.Event()
        counted.record()
        return on_host, counted


@contextmanager
def stop_requested(processes: Processes) -> Iterator[Stop]:
    """While inside, Ctrl-C and SIGTERM only ask to stop, so that a step is finished and saved -> Stop.

    A second Ctrl-C stops at once; a second SIGTERM does not, as torchrun and SLURM may each send one.
    """
    stop, before = Stop(processes), {}

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
