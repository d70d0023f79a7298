"""Files that are there whole or not at all, whenever a process is killed."""

import errno
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from data.errors import DataError, reason
from data.paths import is_folder, is_there, why_not_folder


class NameTooLongError(DataError):
    """The file system allows no such name: nothing is wrong but this one file."""


def write_atomically(path: str | Path, *parts: bytes | memoryview) -> None:
    """Writes a file, part after part, under a temporary name in the same folder, then renames it. Raises DataError."""
    path = Path(path)
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        kind = NameTooLongError if error.errno == errno.ENAMETOOLONG else DataError
        why = reason(error) if is_folder(path.parent) else why_not_folder(path.parent, error)
        raise kind(f"cannot write {path}: {why}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def make_writable(folder: str | Path) -> Path:
    """Makes a folder, with those that it is in, and tries to write into it -> its path. Raises DataError, with none of
    them made."""
    folder = Path(folder)
    probe, missing = folder / f".{uuid.uuid4().hex}.tmp", missing_folders(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0")
    except OSError as error:
        why = why_not_folder(folder, error)
        remove_empty(missing)
        raise DataError(f"cannot write into {folder}: {why}; give another folder") from None
    finally:
        with suppress(OSError):
            probe.unlink()
    return folder


def require_writable(file: str | Path) -> None:
    """Raises DataError where a file cannot be written by this name; leaves nothing behind, no folder either."""
    file = Path(file)
    made = missing_folders(file.parent)
    try:
        if is_folder(file):
            raise DataError(f"cannot write {file}: it is a folder")
        make_writable(file.parent)
        if not is_there(file):
            file.touch()
            file.unlink()
    except OSError as error:
        raise DataError(f"cannot write {file}: {reason(error)}") from None
    finally:
        remove_empty(made)


def missing_folders(folder: str | Path) -> list[Path]:
    """Those of a folder and the folders that it is in that are not there, the innermost first."""
    return [path for path in (Path(folder), *Path(folder).parents) if not is_there(path)]


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those of the folders that are there and hold nothing, or nothing but others of them."""
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):
            folder.rmdir()


def remove_unfinished(folder: str | Path) -> None:
    """Removes what killed processes left of `write_atomically` in a folder. None may be writing there now."""
    for file in Path(folder).glob(".*.tmp"):
        file.unlink(missing_ok=True)
