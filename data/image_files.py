"""Which images are in a folder, and what beside them is left out."""

import mimetypes
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data.errors import DataError, reason
from data.images import is_image

# Endings of photographs that Pillow does not read and the system's list may not know.
OTHER_IMAGES = {
    ".heic",
    ".heif",
    ".jxl",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".dng",
    ".raf",
    ".orf",
    ".rw2",
    ".exr",
    ".hdr",
}


@dataclass
class ImageFiles:
    """What a folder holds."""

    images: list[Path] = field(default_factory=list)  # regular files that Pillow reads, by their names
    left_out: list[str] = field(default_factory=list)  # what may be images too, and why not, each in a line
    others: Counter[str] = field(default_factory=Counter)  # files that are no images: how many, by ending

    def describe_others(self) -> str:
        """ "; 3 other files (.txt, .json) not read", or nothing."""
        number = sum(self.others.values())
        kinds = ", ".join(kind or "without ending" for kind, _ in self.others.most_common(5))
        return f"; {number} other file{'s' * (number > 1)} ({kinds}) not read" if number else ""


def find_images(root: Path, leave_out: Path | None = None) -> ImageFiles:
    """All under `root`, to any depth; hidden files and folders, and what is under `leave_out`, are not looked at.

    A folder is looked into once, by its own path if it is under `root`, else by the first link. Raises DataError where
    `root` cannot be read.
    """
    found, seen = ImageFiles(), set()
    waiting, linked = [root], list[Path]()
    if leave_out and leave_out.exists() and not leave_out.samefile(root):
        seen.add(_identity(leave_out))
    while waiting or linked:
        folder = waiting.pop() if waiting else linked.pop(0)
        try:
            if (identity := _identity(folder)) in seen:
                continue
            seen.add(identity)
            entries = visible(folder)
        except OSError as error:
            if folder == root:
                raise DataError(f"cannot read folder {root}: {reason(error)}") from None
            found.left_out.append(f"{folder}: cannot read this folder: {reason(error)}")
            continue
        for entry in entries:
            if entry.is_dir():
                (linked if entry.is_symlink() else waiting).append(Path(entry.path))
            else:
                add_file(entry, found)
    found.images.sort()
    return found


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, by name."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def add_file(entry: os.DirEntry[str], found: ImageFiles) -> None:
    """Adds what is no folder, an image or not."""
    path = Path(entry.path)
    problem = None if entry.is_file() else why_not_read(path)
    if is_image(path.name) and not problem:
        found.images.append(path)
    elif problem or seems_image(path):
        found.left_out.append(f"{path}: {problem or 'images of this type are not read here'}")
    else:
        found.others[path.suffix.lower()] += 1


def why_not_read(path: Path) -> str | None:
    """Why a path is not one that can be read to its end; None where it is a file."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "a link to nothing" if path.is_symlink() and not os.path.lexists(path.resolve()) else reason(error)
    if stat.S_ISREG(mode):
        return None
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return f"{kinds.get(stat.S_IFMT(mode), 'a device')}, no file"


def seems_image(path: Path) -> bool:
    """Whether a file that is not read is an image by its ending."""
    return path.suffix.lower() in OTHER_IMAGES or (mimetypes.guess_type(path.name)[0] or "").startswith("image/")


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def first_of_each_name(paths: list[Path], left_out: list[str], digits: int = 0) -> Iterator[tuple[str, Path]]:
    """(name, path) of the first file of each name; others, as face.tif after face.png, are left out.

    A name is the stem, filled with zeros to `digits`.
    """
    known: dict[str, Path] = {}
    for path in paths:
        name = path.stem.zfill(digits)
        other = known.setdefault(name, path)
        if other is path:
            yield name, path
        else:
            left_out.append(f"{path}: {other} has the same name; rename one of them")
