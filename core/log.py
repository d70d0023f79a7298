"""Lines on the terminal, beside a progress bar, and in a file."""

import logging
import sys
from pathlib import Path

from tqdm import tqdm


def start_logging(folder: str | Path, name: str, is_main: bool = True) -> logging.Logger:
    """Lines go to the terminal and to `folder/name.log`; only the main process speaks."""
    logger = logging.getLogger("smfdm")
    logger.handlers.clear()
    logger.propagate = False
    logger.setLevel(logging.INFO if is_main else logging.CRITICAL)
    if is_main:
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(Path(folder) / f"{name}.log")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(TerminalHandler())
        logger.addHandler(file)
    return logger


class TerminalHandler(logging.Handler):
    """Plain lines that do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()
