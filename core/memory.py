"""A device's memory: what fits, found out by halving and kept for what comes after; and what was taken of it."""

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from core.device import is_out_of_memory
from core.errors import UserError
from core.sampling import Sampling
from model.fast import release
from model.network import Network

Item = TypeVar("Item")
Result = TypeVar("Result")


class OutOfMemory(UserError):
    """Not even one image fits into the device's memory."""


class Fitting:
    """The batch and the batch of decoder calls that fit, for images of one size."""

    def __init__(self, batch_size: int, sampling: Sampling, say: Callable[[str], None]) -> None:
        self.batch_size, self.sampling, self.say = batch_size, sampling, say

    def do_some(
        self, network: Network, items: Sequence[Item], work: Callable[[Sequence[Item], Sampling], Result]
    ) -> tuple[Sequence[Item], Result]:
        """Does the first of the items, as many at once as fit into memory -> (those, what the work made of them).

        Raises OutOfMemory where not even the first fits.
        """
        while True:
            some = items[: self.batch_size]
            try:
                return some, work(some, self.sampling)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Here the error is gone, with its frames, which hold memory.
            if not self.shrink(len(some), network):
                raise OutOfMemory("not even one image fits into memory")

    def shrink(self, images: int, network: Network) -> bool:
        """Halves the batch, of which `images` did not fit, or that of the decoder, and says so -> whether it could."""
        release(network)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if images > 1:
            self.batch_size = images // 2
            self.say(f"out of memory with {images} images at once: going on with {self.batch_size}")
            return True
        calls = self.decoder_calls()
        if calls > 1:
            settings = self.sampling.settings.replace(decode_batch=calls // 2)
            self.sampling = replace(self.sampling, settings=settings)
            self.say(f"out of memory with {calls} decoder calls at once: going on with {calls // 2}")
        return calls > 1

    def decoder_calls(self) -> int:
        """How many the decoder makes at once of one image: as many as a group has, or fewer."""
        settings = self.sampling.settings
        if settings.decode != "every":
            return 1
        longest = max(len(group) for group in self.sampling.executed.groups)
        return min(longest, settings.decode_batch or longest)


def what_to_do(device: torch.device) -> str:
    """Advice where one image alone does not fit."""
    other = "a smaller --scale or --size" if device.type == "cpu" else "a smaller --scale or --size, or --device cpu"
    return f"{other} takes less"


def peak_memory(device: torch.device) -> float:
    """GB (10^9 bytes) that tensors took at most: of a GPU; elsewhere that the process took, with all that it loaded."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
