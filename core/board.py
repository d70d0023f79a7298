"""TensorBoard, and Weights & Biases as its mirror."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from core.errors import UserError
from core.log import warn
from data.errors import reason


class Board:
    """TensorBoard of the main process; on other processes every call does nothing.

    Where it cannot be written, as on a full disk, that is said once, and training goes on without it.
    """

    def __init__(self, folder: str | Path, is_main: bool = True, purge_step: int | None = None):
        self.folder = folder
        self.writer: SummaryWriter | None = None
        if is_main:
            threading.excepthook = without_traceback
            with self.going_on():
                self.writer = SummaryWriter(folder, purge_step=purge_step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to the curve of every tag."""
        with self.going_on():
            for tag, value in values.items():
                if self.writer:
                    self.writer.add_scalar(tag, value, step)

    def image(self, tag: str, image: np.ndarray | Image.Image, step: int) -> None:
        """Shows an image: (H, W, 3) uint8, or of Pillow."""
        with self.going_on():
            if self.writer:
                self.writer.add_image(tag, np.asarray(image), step, dataformats="HWC")

    def close(self) -> None:
        with self.going_on():
            if self.writer:
                self.writer.close()

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Inside, what goes wrong with writing ends the board, and nothing else."""
        try:
            yield
        except OSError as error:  # raised by the writer's thread, and passed on by the next call
            self.writer = None
            warn(f"TensorBoard's logs in {self.folder} end here, training goes on: {reason(error)}")


def without_traceback(failure: threading.ExceptHookArgs) -> None:
    """In place of `threading.excepthook`: of the writer's thread, the board says what went wrong."""
    if type(failure.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(failure)


def start_wandb(project: str | None, name: str) -> None:
    """Mirrors TensorBoard to Weights & Biases, for those who have it."""
    try:
        import wandb
    except ImportError as error:
        raise UserError("-enable_wandb: wandb is not installed; `pip install wandb`, or leave the flag out") from error
    wandb.init(project=project, name=name, sync_tensorboard=True)
