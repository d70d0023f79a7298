"""What all commands share: options, read with argparse."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import data.command_line
from core.config.keys import Key
from core.config.sections import SampleSection
from core.config.value_types import flag
from core.config.wording import as_flag
from core.errors import UserError

DEVICES = "auto, cpu, cuda, cuda:N, mps or xpu (default: auto, which is CUDA if there is a GPU)"
WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}  # variables that say how OpenMP's threads wait


class Parser(data.command_line.Parser):
    """The parser of the commands of core. Errors say how to write the name of a file that begins like a flag.

    several_processes: whether the command shares its work out over the processes of torchrun. Any other is refused
    there, before it does anything: each process would do the same work, and write the same files.
    """

    def __init__(self, several_processes: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.several_processes = several_processes

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        self.given = sys.argv[1:] if args is None else list(args)
        parsed = super().parse_args(args, namespace)
        processes = number_of_processes()
        if processes > 1 and not self.several_processes:
            raise UserError(f"{self.prog} works in one process, and here are {processes}: run it without torchrun")
        return parsed

    def error(self, message: str) -> NoReturn:
        names = (text for text in getattr(self, "given", ()) if text.startswith("-") and os.path.lexists(text))
        mend = next((f"write ./{name} for the file of that name; " for name in names), "")
        raise UserError(f"{message} ({mend}{self.prog} --help lists all options)")


def number_of_processes() -> int:
    """How many processes torchrun has started, by its variable WORLD_SIZE; 1 without torchrun."""
    processes = os.environ.get("WORLD_SIZE") or "1"
    if not processes.isdecimal() or not int(processes):
        raise UserError(f"the variable WORLD_SIZE is {processes!r}, but must be a whole number of 1 or more: unset it")
    return int(processes)


def wait_passively() -> None:
    """Before torch is imported: lets threads that wait for each other sleep, unless the user says how they wait.

    By default they spin, each on a core of its own. On a machine that computes something else too, they then keep from
    their work those for which they wait: `faces-small`, preset fast, took more than 25 s on two cores with six other
    processes, and takes 5 s so; on two quiet cores it took 1.19 s, and takes 1.27 s.
    """
    if not WAITING & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def add_sample_flags(
    group: argparse._ArgumentGroup, names: Iterable[str] = SampleSection.entries(), **defaults: str
) -> None:
    """A flag for each of these keys of a config's `sample` section, --key-steps for key_steps; their values are texts,
    which the config reads, and None where a flag is not given and has no default here."""
    for name in names:
        key = SampleSection.entries()[name]
        assert isinstance(key, Key)
        usual = f"; default: {defaults[name]}" if name in defaults else ""
        words = f"{key.meaning} ({key.value_type.allowed}{usual})".replace("%", "%%")
        switch = {"action": argparse.BooleanOptionalAction} if key.value_type is flag else {"metavar": name.upper()}
        default = defaults.get(name)
        group.add_argument(as_flag(name), default=default, help=words, **switch)  # type: ignore[arg-type]


def sample_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """{key of the `sample` section: value} of the flags that `add_sample_flags` made and that were given."""
    given = {name: getattr(arguments, name, None) for name in SampleSection.entries()}
    return {name: value for name, value in given.items() if value is not None}


def count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


def file_ending_in(ending: str) -> Callable[[str], str]:
    """The type of a flag that names a file to write: no image or other file can be overwritten by mistake."""

    def check(text: str) -> str:
        if Path(text).suffix.lower() != ending:
            raise argparse.ArgumentTypeError(f"{text} does not end in {ending}; name a file that does")
        return text

    return check


def seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """`4,8` -> (4, 8), in rising order."""
    return tuple(sorted(map(count, text.split(","))))


def counts_or_zeros(text: str) -> tuple[int, ...]:
    """`0,1,8` -> (0, 1, 8)."""
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text} is not a list of whole numbers, such as 0,1,8")
    return tuple(map(int, text.split(",")))
