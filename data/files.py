"""Files that are there whole or not at all, whenever a process is killed."""

import os
import uuid
from pathlib import Path

from data.errors import DataError, reason


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes a file under a temporary name in the same folder, then renames it. Raises DataError."""
    path = Path(path)
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {reason(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: str | Path) -> None:
    """Removes what killed processes left of `write_atomically` in a folder. None may be writing there now."""
    for file in Path(folder).glob(".*.tmp"):
        file.unlink(missing_ok=True)
