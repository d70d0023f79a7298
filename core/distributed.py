"""One process or many: the same code, whichever `torchrun` started."""

import datetime
import os
from dataclasses import dataclass

import torch
from torch import distributed as dist

from core.attempt_store import attempt_store
from core.device import pick_device


@dataclass(frozen=True)
class Distributed:
    """This process among `world` processes: `rank` in 0..world-1 and the device that it runs on."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def from_environment(cls, device="auto"):
        """Joins the processes that torchrun started (its environment says which), or is the only one."""
        world = int(os.environ.get("WORLD_SIZE", 1))
        if world == 1:
            return cls(0, 1, pick_device(device))
        device = pick_device(device)
        if device.type == "cuda":
            device = pick_device(f"cuda:{int(os.environ['LOCAL_RANK'])}")
            torch.cuda.set_device(device)
        timeout = datetime.timedelta(minutes=30)  # one may wait so long for the images that another validates
        store, rank, world = attempt_store(timeout)
        own = {"backend": "nccl", "device_id": device} if device.type == "cuda" else {"backend": "gloo"}
        dist.init_process_group(**own, store=store, rank=rank, world_size=world, timeout=timeout)
        return cls(rank, world, device)

    @property
    def is_main(self):
        return self.rank == 0

    def broadcast(self, tensors):
        """Makes each tensor equal to that of rank 0, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def sum(self, tensor):
        """The sum of a tensor over processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value):
        """The picklable values of all processes, in the order of ranks, on every process."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def barrier(self):
        if self.world > 1:
            dist.barrier()

    def close(self):
        """Leaves the other processes, when all of them are done."""
        if self.world > 1:
            dist.barrier()
            dist.destroy_process_group()
