"""What infer.py reads and writes: the images of the command line, one after the other, and the file of each result."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import Image

from core.errors import UserError
from core.inference.output_files import Output, begins_with
from core.lines import write_line
from data import DataError
from data.files import make_writable
from data.image_files import ImageFiles, walk_images
from data.paths import is_folder, refuse_unseen, why_not_named, why_not_read

Size = tuple[int, int]  # (width, height), in pixels
T = TypeVar("T")


class Job(NamedTuple):
    """A file to super-resolve, and the file to write; of a sweep, each result has its scale in its name."""

    source: Path
    target: Path


@dataclass
class LeftOut(ImageFiles):
    """Counts what is left out, keeps the first line of it, and, if `aloud`, says all of it on stderr."""

    aloud: bool = False
    number: int = 0

    def leave_out(self, line: str) -> None:
        self.number += 1
        if self.number == 1:
            self.left_out.append(line)
        if self.aloud:
            write_line(f"left out: {line}", sys.stderr)

    def in_short(self) -> str:
        """ "3 left out, as FILE: why", or nothing."""
        return f"{self.number} left out, as {self.left_out[0]}" if self.number else ""


@dataclass(frozen=True)
class InputFiles:
    """The images that files and folders `paths` hold; folders are searched to any depth, and never listed whole.

    Raises UserError where a path is missing.
    """

    paths: Sequence[str | Path]
    output: Output

    def __post_init__(self) -> None:
        refuse_missing(self.paths)

    def jobs(self, found: LeftOut) -> Iterator[Job]:
        """What to do, in an order that is the same each time; what cannot be done, as a second file of a name, is left
        out."""
        taken = Taken(forgets=len(self.paths) == 1 and not self.output.faces)
        for source, name in named_images(self.paths, found, self.output):
            job = Job(source, self.output.target(name))
            files = self.output.files(job.target)
            unnamed = (f"{file} cannot be written: {why}" for file in files if (why := why_not_named(file)))
            if problem := next(unnamed, None):
                found.leave_out(f"{source}: {problem}")
            elif (other := taken.by_another(source, files, self.output.faces_of(job.target))) is None:
                yield job
            elif not other.source.samefile(source):
                flags = "--output, --suffix or --save-faces" if self.output.faces else "--output or --suffix"
                found.leave_out(f"{source}: {other.source} {other.does}; give it in another run, with another {flags}")

    def first(self) -> Job:
        """Raises UserError where there is no image."""
        found = LeftOut()
        for job in self.jobs(found):
            return job
        reasons = f" ({found.left_out[0]})" if found.left_out else ""
        raise UserError(f"no image in {', '.join(map(str, self.paths))}{reasons}")

    def protect(self) -> None:
        """Raises UserError where an input would be overwritten, under whatever name or link."""
        self.protect_from_faces()
        there = {
            identity: file
            for job in (self.jobs(LeftOut()) if self.output.is_there() else ())
            for file in self.output.files(job.target)
            if (identity := identity_of(file))
        }
        for source, _ in named_images(self.paths, LeftOut(), self.output) if there else ():
            identity = identity_of(source)
            if identity in there:
                advice = "give another --output" if self.output.name else "give another --output, or --suffix"
                raise UserError(f"{there[identity]} is an input and would be overwritten; {advice}")

    def protect_from_faces(self) -> None:
        """Raises UserError where a face may overwrite an input: it does if there are so many."""
        jobs = self.jobs(LeftOut()) if self.output.faces else ()
        faces = {place_of(face): job.source for job in jobs for face in self.output.faces_of(job.target)}
        for source, _ in named_images(self.paths, LeftOut(), self.output) if faces else ():
            named = begins_with(source)
            if named and (photo := faces.get(place_of(named))):
                raise UserError(
                    f"{source} is an input, which a face of {photo} may overwrite; give another --save-faces"
                )

    def count(self) -> int:
        """How many jobs there are."""
        return sum(1 for _ in self.jobs(LeftOut()))


def refuse_missing(paths: Iterable[str | Path]) -> None:
    for path in paths:
        if not os.path.lexists(path):
            refuse_unseen(path, "--input")
            raise UserError(f"--input {path}: no such file or folder")


def size_of(file: Path) -> Size:
    """The size of an image by its header; the least, where that cannot be read."""
    try:
        with Image.open(file) as image:
            return image.size
    except Exception:  # Pillow's decoders raise whatever their parsers stumble over; it is told where it is read
        return 1, 1


class Other(NamedTuple):
    """A source that has had a file first, and what it does with it, in words."""

    source: Path
    does: str


class Taken:
    """Remembers which source each file to write is for.

    With a single input, only files of the same folder can have the same one. So with `forgets`, folders that have
    been looked through are forgotten, which saves memory. Nobody knows yet how many faces there are: their files are
    known by what they begin with.
    """

    def __init__(self, forgets: bool) -> None:
        self.forgets = forgets
        self.sources: dict[Path, dict[str, str]] = {}  # by folder and name
        self.faces: dict[Path, Path] = {}  # what the faces of a source begin with -> the source
        self.like_faces: dict[Path, Other] = {}  # the same of faces that may be called as another result is

    def by_another(self, source: Path, files: Sequence[Path], faces: Sequence[Path] = ()) -> Other | None:
        """The source that had one of the files first, if there is one; the files are in one folder. faces: what those
        of its faces begin with, where they are written."""
        names = self.names_in(files[0].parent)
        for file in files:
            if (other := names.get(file.name)) is not None:
                return Other(Path(other), f"becomes {file} already")
        of_faces = {place_of(named): file for file in files if faces and (named := begins_with(file))}
        for place, file in of_faces.items():
            if place in self.faces:
                return Other(self.faces[place], f"may have a face that becomes {file}")
        places = list(map(place_of, faces))
        for place in places:
            if place in self.like_faces:
                return self.like_faces[place]
        names.update(dict.fromkeys([file.name for file in files], str(source)))
        self.faces |= dict.fromkeys(places, source)
        self.like_faces |= {
            place: Other(source, f"becomes {file} already, as a face of this one may")
            for place, file in of_faces.items()
        }
        return None

    def names_in(self, folder: Path) -> dict[str, str]:
        """{name: its source} of the files that are taken in a folder."""
        if folder not in self.sources and self.forgets:
            self.sources = {known: names for known, names in self.sources.items() if folder.is_relative_to(known)}
        return self.sources.setdefault(folder, {})


def place_of(file: Path) -> Path:
    """The file by the one name that its folder has, whatever links lead there."""
    return Path(os.path.realpath(file.parent), file.name)


def named_images(
    paths: Iterable[str | Path], found: ImageFiles, output: Output | None = None
) -> Iterator[tuple[Path, Path]]:
    """(file, its path inside the output) of each image; earlier results, where the output is inside an input, are no
    images."""
    for path in map(Path, paths):
        if is_folder(path):
            for file in walk_images(path, found, output.folder if output else None):
                if not (output and output.is_earlier_result(path, file)):
                    yield file, file.relative_to(path)
        elif problem := why_not_read(path):
            found.leave_out(f"{path}: {problem}")
        else:
            yield path, Path(path.name)


def images_of_folder(flag: str, folder: Path, found: LeftOut) -> list[Path]:
    """The images of the folder that a flag names, to any depth. Raises UserError where there is none, or no folder."""
    if not is_folder(folder):
        refuse_unseen(folder, flag)
        raise UserError(f"{flag} {folder}: no such folder")
    files = [file for file, _ in named_images([folder], found)]
    if not files:
        left_out = f" ({found.in_short()})" if found.number else ""
        raise UserError(f"{flag} {folder}: no image in this folder{left_out}")
    return files


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, at even distances, from the first on."""
    n = min(most, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def identity_of(file: Path) -> tuple[int, int] | None:
    """What tells a file from all others, under whatever name or link; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def check_some_writable(targets: Iterable[Path]) -> None:
    """Raises DataError where no result could be written."""
    problem = None
    for target in targets:
        try:
            return check_writable(target)
        except DataError as error:
            problem = problem or error
    raise problem or DataError("no result to write")


def check_writable(target: Path) -> None:
    """Makes the folder of a result. Raises DataError where the result could not be written."""
    make_writable(target.parent)
    if is_folder(target):
        raise DataError(f"cannot write {target}: it is a folder")
