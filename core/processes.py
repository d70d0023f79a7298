"""One process or many: the same code, whichever `torchrun` started."""

import datetime
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

from core.attempt_store import attempt_store
from core.command_line import number_of_processes
from core.device import pick_device
from core.errors import UserError, is_of_user

T = TypeVar("T")

OF_TORCHRUN = {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}  # variables that it sets beside WORLD_SIZE
TIMEOUT = datetime.timedelta(minutes=30)  # one may wait so long for the images that another validates


@dataclass(frozen=True)
class Processes:
    """The `world` processes that work together, as this one sees them: its `rank`, in 0..world-1, and its device."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def from_environment(cls, device: str = "auto", timeout: datetime.timedelta = TIMEOUT) -> "Processes":
        """Joins the processes that torchrun started (its environment says which), or is the only one.

        timeout: after which one that does not come to where the others wait is given up.
        """
        own = pick_device(device)
        if (processes := number_of_processes()) == 1:
            return cls(0, 1, own)
        if missing := sorted(OF_TORCHRUN - os.environ.keys()):
            problem = f"WORLD_SIZE is {processes}, and these variables are missing: {', '.join(missing)}"
            raise UserError(f"{problem}; start several processes with torchrun, or unset WORLD_SIZE")
        if own.type == "cuda":
            own = pick_device(f"cuda:{int(os.environ['LOCAL_RANK'])}")
            torch.cuda.set_device(own)
        store, rank, world = attempt_store(timeout)
        backend, device_id = ("nccl", own) if own.type == "cuda" else ("gloo", None)
        dist.init_process_group(backend, timeout=timeout, world_size=world, rank=rank, store=store, device_id=device_id)
        return cls(rank, world, own)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Makes each tensor equal to that of rank 0, in place."""
        if self.world > 1:
            with lost_process_named():
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over processes, in place."""
        if self.world > 1:
            with lost_process_named():
                dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """The picklable values of all processes, in the order of ranks, on every process."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        with lost_process_named():
            dist.all_gather_object(values, value)
        return values

    def on_main(self, work: Callable[[], T]) -> T:
        """What the main process gets by some work of its own, on every process; what the user can mend of what goes
        wrong with it is raised on all of them."""
        result, problem = None, ""
        if self.is_main:
            try:
                result = work()
            except Exception as error:
                if not is_of_user(error):
                    raise
                problem = str(error)
        result, problem = self.gather((result, problem))[0]
        if problem:
            raise UserError(problem)
        return cast(T, result)

    def barrier(self) -> None:
        if self.world > 1:
            with lost_process_named():
                dist.barrier()

    def close(self) -> None:
        """Leaves the other processes, when all of them are done."""
        if self.world > 1:
            with lost_process_named():
                dist.barrier()
            dist.destroy_process_group()


@contextmanager
def lost_process_named() -> Iterator[None]:
    """Inside, waiting for other processes. Raises UserError where one has ended, or does not come before the time-out;
    with NCCL it is the library that then ends this process."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        cause = " ".join(str(error).split())
        advice = "its own messages, or torchrun's report, tell why; start again with -r auto"
        raise UserError(f"another process of this run has ended or does not answer ({cause}); {advice}") from error
