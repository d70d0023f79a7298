"""Which images are in a folder, and what beside them is left out."""

import mimetypes
import os
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from data.errors import DataError, reason
from data.images import is_image
from data.paths import is_there, why_not_read, why_not_seen

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


PIECE = 10_000  # names of a folder that are read at once


@dataclass
class ImageFiles:
    """What a folder holds."""

    images: list[Path] = field(default_factory=list)  # regular files that Pillow reads, by their names
    left_out: list[str] = field(default_factory=list)  # what may be images too, and why not, each in a line
    others: Counter[str] = field(default_factory=Counter)  # files that are no images: how many, by ending

    def leave_out(self, line: str) -> None:
        self.left_out.append(line)

    def describe_others(self) -> str:
        """ "; 3 other files (.txt, .json) not read", or nothing."""
        number = sum(self.others.values())
        kinds = ", ".join(kind or "without ending" for kind, _ in self.others.most_common(5))
        return f"; {number} other file{'s' * (number > 1)} ({kinds}) not read" if number else ""


def find_images(root: Path, leave_out: Path | None = None) -> ImageFiles:
    """All that `walk_images` finds, by name."""
    found = ImageFiles()
    found.images = sorted(walk_images(root, found, leave_out))
    return found


def walk_images(root: Path, found: ImageFiles, leave_out: Path | None = None) -> Iterator[Path]:
    """The images under `root`, to any depth, as they are come upon; what else is there goes to `found`. Hidden files
    and folders, and what is under `leave_out`, are not looked at.

    They come by name, but what links lead to comes last, and a folder of more than `PIECE` names is read in pieces.
    A folder is looked into once, by its own path if it is under `root`, else by the first link. Raises DataError where
    `root` cannot be read.
    """
    seen = set()
    if leave_out and is_there(leave_out) and is_there(root) and not leave_out.samefile(root):
        seen.add(_identity(leave_out))

    def entries_of(folder: Path) -> Iterator[os.DirEntry[str]]:
        try:
            if (identity := _identity(folder)) not in seen:
                seen.add(identity)
                yield from visible(folder)
        except OSError as error:
            if folder == root:
                raise DataError(f"cannot read folder {root}: {why_not_seen(root) or reason(error)}") from None
            found.leave_out(f"{folder}: cannot read this folder: {reason(error)}")

    waiting = deque([root])  # folders that are looked into when all before them is done
    while waiting:
        open_folders = [entries_of(waiting.popleft())]
        while open_folders:
            if (entry := next(open_folders[-1], None)) is None:
                open_folders.pop()
            elif not leads_to_folder(entry):
                if is_to_read(entry, found):
                    yield Path(entry.path)
            elif entry.is_symlink():
                waiting.append(Path(entry.path))
            else:
                open_folders.append(entries_of(Path(entry.path)))


def visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What is in a folder and not hidden, by name, in pieces."""
    with os.scandir(folder) as entries:
        shown = (entry for entry in entries if not entry.name.startswith("."))
        while piece := sorted(islice(shown, PIECE), key=lambda entry: entry.name):
            yield from piece


def leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link that cannot be followed is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_to_read(entry: os.DirEntry[str], found: ImageFiles) -> bool:
    """Whether what is no folder is an image; if not, `found` tells of it."""
    path = Path(entry.path)
    problem = why_not_read(path) if entry.is_symlink() or not entry.is_file() else None
    if problem is None and is_image(entry.name):
        return True
    if problem or seems_image(path):
        found.leave_out(f"{path}: {problem or 'images of this type are not read here'}")
    else:
        found.others[path.suffix.lower()] += 1
    return False


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
