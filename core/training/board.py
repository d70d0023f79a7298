"""TensorBoard, and Weights & Biases as its mirror."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from core.errors import UserError
from core.log import warn
from data.errors import reason


class Board:
    """TensorBoard of the main process, and a run of Weights & Biases that gets the same; on other processes every call
    does nothing.

    Where it cannot be written, as on a full disk, that is said once, and training goes on without it.
    """

    def __init__(
        self, folder: str | Path | None, is_main: bool = True, purge_step: int | None = None, mirror: Any = None
    ):
        self.folder = folder  # None: without TensorBoard
        self.mirror = mirror  # what `start_wandb` returns, or None
        self.writer: SummaryWriter | None = None
        if is_main and folder is not None:
            threading.excepthook = without_traceback
            with self.going_on():
                self.writer = SummaryWriter(folder, purge_step=purge_step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to the curve of every tag."""
        with self.going_on():
            for tag, value in values.items():
                if self.writer:
                    self.writer.add_scalar(tag, value, step)
        if self.mirror:
            self.mirror.log(dict(values), step=step)

    def image(self, tag: str, image: np.ndarray | Image.Image, step: int) -> None:
        """Shows an image: (H, W, 3) uint8, or of Pillow."""
        with self.going_on():
            if self.writer:
                self.writer.add_image(tag, np.asarray(image), step, dataformats="HWC")
        if self.mirror:
            self.mirror.log({tag: wandb_module().Image(image)}, step=step)

    def reports(self, reports: Mapping[str, Mapping[str, Any]], step: int) -> None:
        """Adds what a validation measured, and its pictures, by the key of each set."""
        for name, report in reports.items():
            means = report["mean"] | report["of_sets"]
            self.scalars({f"{name}/{key}": value for key, value in means.items()}, step)
            if "picture" in report:
                self.image(f"{name}/lr_bicubic_sr_hr", report["picture"], step)

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


def start_wandb(project: str | None, name: str) -> Any:
    """Begins a run of Weights & Biases, for those who have it -> the run, a mirror of a Board."""
    return wandb_module().init(project=project, name=name)


def wandb_module() -> Any:
    try:
        return import_module("wandb")
    except ImportError as error:
        raise UserError("-enable_wandb: wandb is not installed; `pip install wandb`, or leave the flag out") from error
