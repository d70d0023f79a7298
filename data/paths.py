"""What is where a path leads.

Of a name that is too long, a closed folder and a link to itself, pathlib raises some errors and hides others, as the
version of Python has it. Nothing here raises one.
"""

import errno
import stat
from pathlib import Path

from data.errors import DataError, reason

MISSING = "no such file or folder"


def is_there(path: str | Path) -> bool:
    """Whether a file or a folder can be seen; one in a folder that nobody may look into cannot."""
    return _mode(path) != 0


def is_file(path: str | Path) -> bool:
    """Whether a regular file can be seen."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: str | Path) -> bool:
    """Whether a folder can be seen."""
    return stat.S_ISDIR(_mode(path))


def why_not_read(path: str | Path) -> str | None:
    """Why a path is not one that can be read to its end; None where it is a file."""
    if problem := why_not_seen(path):
        return problem
    mode = _mode(path)
    if stat.S_ISREG(mode):
        return None
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return f"{kinds.get(stat.S_IFMT(mode), 'a device')}, no file"


def why_not_seen(path: str | Path) -> str | None:
    """Why nothing is seen where a path leads, by the first part of it that is in the way; None where something is."""
    path = Path(path)
    for place in (*reversed(path.parents), path):
        try:
            place.stat()
        except (OSError, ValueError) as error:
            problem = _why_not_seen(place, error)
            return f"{place} is {problem}" if place != path and problem.startswith("a link") else problem
    return None


def refuse_unseen(path: str | Path, name: str = "") -> None:
    """Raises DataError where something else is wrong with a path than that nothing is there. `name` is the key or the
    flag that gives it."""
    problem = why_not_seen(path)
    if problem and problem != MISSING:
        where = f"{name}{' ' if name.startswith('-') else ': '}{path}" if name else path
        raise DataError(f"{where}: {problem}; mend that, or give another path")


def why_not_folder(path: Path, error: OSError) -> str:
    """Why a folder cannot be made or written into, by the file that is in its place or in the way to it, if there is
    one."""
    for place in (*reversed(path.parents), path):
        if is_there(place) and not is_folder(place):
            return "it is not a folder" if place == path else f"{place} is a file, not a folder"
    problem = why_not_seen(path)
    return reason(error) if problem in (None, MISSING) else str(problem)


def why_not_named(file: Path) -> str | None:
    """Why no file can have this name, as one longer than the file system allows; None where it can."""
    there = next((folder for folder in file.parents if is_folder(folder)), Path())  # its own may be missing yet
    try:
        (there / file.name).lstat()
    except (FileNotFoundError, PermissionError):
        return None
    except (OSError, ValueError) as error:
        return _why_not_seen(there / file.name, error)
    return None


def refuse_unnamed(file: Path, name: str) -> None:
    """Raises DataError where no file can have the name that a flag gives."""
    if problem := why_not_named(file):
        raise DataError(f"{name} {file}: {problem}; give a shorter one")


def _mode(path: str | Path) -> int:
    """The type and permissions of what a path leads to; 0 where nothing can be seen."""
    try:
        return Path(path).stat().st_mode
    except (OSError, ValueError):
        return 0


def _why_not_seen(place: Path, error: OSError | ValueError) -> str:
    """The cause of an error of `stat` at a place that lies in a folder."""
    number = error.errno if isinstance(error, OSError) else None
    if _is_link(place):
        ends: dict[int | None, str] = {
            errno.ELOOP: "a link that leads to itself",
            errno.EACCES: "a link into a folder that is closed to you",
        }
        return ends.get(number, "a link to nothing")
    causes: dict[int | None, str] = {
        errno.ENOENT: MISSING,
        errno.ENOTDIR: f"{place.parent} is a file, not a folder",
        errno.EACCES: f"the folder {place.parent} is closed to you (permission denied)",
    }
    return causes.get(number) or reason(error)


def _is_link(path: Path) -> bool:
    try:
        return stat.S_ISLNK(path.lstat().st_mode)
    except (OSError, ValueError):
        return False
