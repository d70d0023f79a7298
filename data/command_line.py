"""What the command lines of this folder share, and those of core too."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from data.errors import DataError


class Parser(argparse.ArgumentParser):
    """A parser that keeps the lines of its description, and takes no empty text. Its errors are DataErrors, of one line
    and without the usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter} | options)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        parsed = super().parse_args(args, namespace)
        self._refuse_empty(parsed)
        return parsed

    def _refuse_empty(self, parsed: argparse.Namespace) -> None:
        """An empty text is no file, no folder and no choice: it would stand for the current folder, or for no flag. A
        path has no type here, as Path makes the current folder of it."""
        for action in self._actions:
            given = getattr(parsed, action.dest, None)
            if given != action.default and "" in (given if isinstance(given, list) else [given]):
                name = "/".join(action.option_strings) or str(action.metavar or action.dest)
                self.error(f"argument {name}: is empty, as a variable that is not set gives it")

    def error(self, message: str) -> NoReturn:
        raise DataError(f"{message} ({self.prog} --help lists all options)")
