"""Batches that no memory here could hold, found before anything is made."""

import torch

from core.config import Config
from core.config.sections import TrainingImagesSection
from core.errors import UserError
from data.memory import memory_of_machine

BYTES = 4  # of a value of an image, which is read and then put into a batch
LEAST_MAPS = 8  # feature maps at full size that a step keeps for its gradients, of two bytes a value


def refuse_huge_batches(config: Config, device: torch.device) -> None:
    """Raises UserError where the least that a step of training takes is more than all memory of this machine."""
    there = memory_here(device)
    for name, images in config.datasets.training.items():
        of_one = least_bytes(config, images)  # where that is too much already, a smaller batch is no help
        least = images.batch_size * of_one
        if of_one <= there < least:
            parts = "; train.accumulate makes a batch of several smaller ones" if config.train.accumulate == 1 else ""
            raise UserError(
                f"datasets.{name}.batch_size is {images.batch_size}, and a step takes more than {least / 1e9:.0f} GB, "
                f"of {there / 1e9:.0f} GB here: lower it{parts}"
            )


def least_bytes(config: Config, images: TrainingImagesSection) -> int:
    """Of an image: as it is read and again in its batch, and features at the size of HR, the largest that is drawn."""
    read = 2 * BYTES * 3 * (images.l_resolution**2 + images.r_resolution**2) * config.train.accumulate
    largest = max((round(hr_side) for _, hr_side, _ in images.sizes), default=images.r_resolution)
    return read + LEAST_MAPS * 2 * config.model.unet.inner_channel * largest**2


def memory_here(device: torch.device) -> int:
    """Bytes of this machine and of the device together; 0 where the system does not tell."""
    own = memory_of_machine()
    return own and own + (torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0)
