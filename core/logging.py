"""What a run tells while it runs: lines on the terminal and in a file, TensorBoard, a progress bar."""

import logging
import sys
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from core.errors import UserError


def start_logging(folder, name, is_main=True):
    """Lines go to the terminal and to `folder/name.log`; only the main process speaks."""
    logger = logging.getLogger("smfdm")
    logger.handlers.clear()
    logger.propagate = False
    logger.setLevel(logging.INFO if is_main else logging.CRITICAL)
    if is_main:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handlers = [TerminalHandler(), logging.FileHandler(Path(folder) / f"{name}.log")]
        handlers[1].setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        for handler in handlers:
            logger.addHandler(handler)
    return logger


class TerminalHandler(logging.Handler):
    """Plain lines that do not tear a progress bar."""

    def emit(self, record):
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


class Board:
    """TensorBoard of the main process; on other processes every call does nothing."""

    def __init__(self, folder, is_main=True, purge_step=None):
        self.writer = SummaryWriter(folder, purge_step=purge_step) if is_main else None

    def scalars(self, values, step):
        """values: {tag: float}."""
        if self.writer:
            for tag, value in values.items():
                self.writer.add_scalar(tag, value, step)

    def image(self, tag, image, step):
        """image: (H, W, 3) uint8 array, or a PIL image."""
        if self.writer:
            self.writer.add_image(tag, np.asarray(image), step, dataformats="HWC")

    def close(self):
        if self.writer:
            self.writer.close()


def start_wandb(project, name):
    """Mirrors TensorBoard to Weights & Biases, for those who have it."""
    try:
        import wandb
    except ImportError as error:
        raise UserError("-enable_wandb: wandb is not installed; `pip install wandb`, or leave the flag out") from error
    wandb.init(project=project, name=name, sync_tensorboard=True)
