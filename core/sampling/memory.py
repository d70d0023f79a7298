"""A device's memory: what fits, found out by halving and kept for what comes after; and what was taken of it."""

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from core.device import is_out_of_memory
from core.errors import UserError
from core.sampling.super_resolution import Sampling
from core.sampling.tiling import can_be_tiled, fewer_pixels
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
        """Halves the batch, of which `images` did not fit, or else tiles, or where there can be none, the batch of the
        decoder, and says so -> whether it could."""
        release(network)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if images > 1:
            self.batch_size = images // 2
            self.say(f"out of memory with {images} images at once: going on with {self.batch_size}")
            return True
        sampling, calls = self.sampling, self.sampling.decoder_calls
        if can_be_tiled(network, sampling.settings):
            most_pixels = fewer_pixels(network, sampling.most_pixels)
            if most_pixels is None:
                return False
            self.sampling = replace(sampling, most_pixels=most_pixels)
            self.say(f"out of memory: going on with tiles, {most_pixels:,} pixels at once")
        elif calls > 1 and sampling.settings.decode == "every":
            self.sampling = replace(sampling, settings=sampling.settings.replace(decode_batch=calls // 2))
            self.say(f"out of memory with {calls} decoder calls at once: going on with {calls // 2}")
        else:
            return False
        return True


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
