"""Lines on the terminal, beside a progress bar, and in a file."""

import functools
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from core.command_line import number_of_processes
from core.errors import UserError
from data.errors import reason


def start_logging(folder: str | Path, name: str, is_main: bool = True) -> logging.Logger:
    """Lines go to the terminal and to `folder/name.log`; only the main process speaks."""
    logger = logging.getLogger("smfdm")
    logger.handlers.clear()
    logger.propagate = False
    logger.setLevel(logging.INFO if is_main else logging.CRITICAL)
    if is_main:
        path = Path(folder) / f"{name}.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = LogFile(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UserError(f"cannot write {path}: {reason(error)}") from None
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(TerminalHandler())
        logger.addHandler(file)
    return logger


def warn(line: str) -> None:
    """Says a line on stderr, if there is anything that shows it."""
    with suppress(OSError):
        tqdm.write(f"warning: {line}\n", file=sys.stderr, end="")  # in one piece, as core.lines


@functools.cache
def warn_once(line: str) -> None:
    """As `warn`, of what is found out again and again: the main process says it, the first time."""
    if number_of_processes() == 1 or os.environ.get("RANK") == "0":
        warn(line)


class LogFile(logging.FileHandler):
    """A file of lines. Where it cannot be written, as on a full disk, that is said once."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            raise
        if not self.failed:
            self.failed = True
            warn(f"{self.baseFilename} lacks lines from here on: {reason(error)}")


class TerminalHandler(logging.Handler):
    """Plain lines that do not tear a progress bar."""

    failed = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(f"{self.format(record)}\n", file=sys.stdout, end="")
            sys.stdout.flush()
        except BrokenPipeError:
            raise  # nobody reads any more
        except OSError as error:
            if not self.failed:
                self.failed = True
                warn(f"stdout lacks lines from here on: {reason(error)}")
