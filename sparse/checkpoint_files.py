"""The network file of a checkpoint, by what a command line calls it: a file, a PREFIX of PREFIX_gen.*, or a folder."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparse.errors import SparseError

SUFFIXES = (".safetensors", ".pth")


def find_network_file(path: Path) -> Path | None:
    """The file that `path` is or is the PREFIX of, or that of the latest checkpoint in a folder; None without one."""
    return next(filter(is_file, possible_files(path)), None)


def possible_files(path: Path) -> Iterator[Path]:
    """What the network file that `path` names may be called, the first that is there first. Raises SparseError where
    it is a folder that cannot be read."""
    latest = latest_prefix(path) if is_folder(path) else None
    if path.suffix in SUFFIXES:
        yield path
    yield from (Path(f"{latest or path}{kind}{suffix}") for kind in ("_gen", "") for suffix in SUFFIXES)


def latest_prefix(folder: str | Path, whole: bool = False) -> Path | None:
    """The prefix of the checkpoint with the most steps in a folder, or None; whole: of those with a training file.

    A link to nothing counts, so that none is taken in place of the latest. Raises SparseError where a folder cannot be
    read.
    """
    found = []
    for name in names_in(Path(folder)):
        match = re.fullmatch(r"(I(\d+)_E\d+)_gen\.(safetensors|pth)", name)
        if match and (not whole or is_file(Path(folder, name.replace("_gen.", "_opt.")))):
            found.append((int(match[2]), Path(folder, match[1])))
    return max(found)[1] if found else None


def names_in(folder: Path) -> list[str]:
    """What a folder holds; nothing where there is none."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SparseError(f"{folder}: cannot read this folder: {error.strerror}; mend that, or name a file") from None


@contextmanager
def in_utf8(path: Path) -> Iterator[Path]:
    """A path of the same file that is UTF-8, as safetensors needs one: the path itself, or where its bytes are others,
    that of the open file."""
    if str(path).encode(errors="replace").decode() == str(path):
        yield path
    else:
        with path.open("rb") as stream:
            yield Path(f"/dev/fd/{stream.fileno()}")


def is_file(path: Path) -> bool:
    """Whether a file can be seen; pathlib's own raises for a name that is too long, and in a closed folder."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether a folder can be seen."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0
