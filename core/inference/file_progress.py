"""How far a run over many files has come: a bar with the time that is left on a terminal, lines elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from core.lines import write_line
from core.sampling.memory import OutOfMemory
from data import DataError


class FileProgress:
    """Counts the files of this process that are done, that were there already and that failed, and says so."""

    def __init__(self, total: int, process: int | None = None) -> None:
        """process: the number of this one of several, which it says with each line."""
        self.total, self.done, self.skipped, self.failed = total, 0, 0, 0
        self.label = "" if process is None else f"process {process}: "
        self.bar = tqdm(total=total, unit="image", disable=True if process else None, file=sys.stderr)

    def finished(self) -> int:
        return self.done + self.skipped + self.failed

    def succeed(self, line: str) -> None:
        self.done += 1
        self.bar.update()
        self.say(line)

    def skip(self, results: int = 1) -> None:
        self.skipped += results
        self.bar.update(results)

    def say(self, line: str) -> None:
        self.tell(f"{self.label}[{self.finished()}/{self.total}] {line}")

    def tell(self, line: str) -> None:
        """Above the bar, if there is one."""
        with tqdm.external_write_mode():
            write_line(line)

    def warn(self, line: str) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            write_line(line, sys.stderr)

    @contextmanager
    def attempt(self, results: int = 1) -> Iterator[None]:
        """Inside, what goes wrong with a file makes so many results fail, and nothing else."""
        try:
            yield
        except (DataError, OutOfMemory) as error:
            self.failed += results
            self.bar.update(results)
            self.warn(f"error: {error}")
