"""What the user can mend, said in one line."""

import hashlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from core.lines import write_line


class UserError(Exception):
    """A config, a checkpoint or a command line is wrong: one line that says what, where, and how to mend it."""


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to stop, and it has done what there was to do first."""

    def __init__(self, number: int = signal.SIGINT):
        super().__init__()
        self.number = number


def is_of_user(error: Exception) -> bool:
    """Whether an error says what the user can mend."""
    if isinstance(error, UserError):
        return True
    from data.errors import DataError  # import torch, for which nobody need wait before there is an error
    from model.errors import ModelError
    from sparse.errors import SparseError

    return isinstance(error, DataError | ModelError | SparseError)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """For `main`, as `@one_line_errors()`: the errors above become one line on stderr and exit code 2.

    A signal ends it with 128 and its number: 130 for Ctrl-C, 143 for SIGTERM.

    Where nobody reads stdout any more, as after `| head`, the program ends without a word (141). What the terminal
    cannot show, as names of files may be, is shown as escapes.
    """
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        if is_read(sys.stdout):
            raise  # of another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush as the interpreter ends
        sys.exit(141)
    except Exception as error:
        if not is_of_user(error):
            raise
        say_once(f"error: {' '.join(str(error).split())}")
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        say_once("interrupted")
        sys.exit(128 + (interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT))


def open_closed_streams() -> None:
    """Gives stdin, stdout and stderr a place where they were closed at the start, as by `>&-`: nobody reads them."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # or the next file would be taken for one of them
        pass
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115


def is_read(stream: TextIO) -> bool:
    """Whether somebody reads what is written to a stream, where it is a pipe."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def say_once(line: str) -> None:
    """Prints the last words of this process on stderr, unless a process beside it, of the same torchrun, has said them.

    torchrun finds them in its error file, and repeats them in its report on the processes that failed.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if error_file:
        from data.errors import DataError
        from data.files import write_atomically  # torchrun reads it also where a signal ends this process meanwhile

        message = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
        folder = Path(error_file).parent.parent  # that of this attempt, with a folder for each process
        try:
            write_atomically(error_file, json.dumps({"message": message}).encode())
            (folder / f"said_{hashlib.sha256(line.encode(errors='backslashreplace')).hexdigest()}").touch(
                exist_ok=False
            )
        except FileExistsError:
            return
        except (DataError, OSError):
            pass  # then each process says it
    write_line(line, sys.stderr)
