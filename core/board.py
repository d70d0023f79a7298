"""TensorBoard, and Weights & Biases as its mirror."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from core.errors import UserError


class Board:
    """TensorBoard of the main process; on other processes every call does nothing."""

    def __init__(self, folder: str | Path, is_main: bool = True, purge_step: int | None = None):
        self.writer = SummaryWriter(folder, purge_step=purge_step) if is_main else None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to the curve of every tag."""
        if self.writer:
            for tag, value in values.items():
                self.writer.add_scalar(tag, value, step)

    def image(self, tag: str, image: np.ndarray | Image.Image, step: int) -> None:
        """Shows an image: (H, W, 3) uint8, or of Pillow."""
        if self.writer:
            self.writer.add_image(tag, np.asarray(image), step, dataformats="HWC")

    def close(self) -> None:
        if self.writer:
            self.writer.close()


def start_wandb(project: str | None, name: str) -> None:
    """Mirrors TensorBoard to Weights & Biases, for those who have it."""
    try:
        import wandb
    except ImportError as error:
        raise UserError("-enable_wandb: wandb is not installed; `pip install wandb`, or leave the flag out") from error
    wandb.init(project=project, name=name, sync_tensorboard=True)
