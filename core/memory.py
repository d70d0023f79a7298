"""What fits into a device's memory: found out by halving, and kept for what comes after."""

from collections.abc import Callable
from dataclasses import replace

import torch

from core.sampling import Sampling
from model.fast import release
from model.network import Network


class OutOfMemory(Exception):
    """Not even one image fits into the device's memory."""


class Fitting:
    """The batch and the batch of decoder calls that fit, for images of one size."""

    def __init__(self, batch_size: int, sampling: Sampling, say: Callable[[str], None]) -> None:
        self.batch_size, self.sampling, self.say = batch_size, sampling, say

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
