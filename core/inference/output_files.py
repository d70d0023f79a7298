"""The files of results: what they are called, and how they are written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from core.errors import UserError
from data import DataError
from data.errors import reason
from data.files import write_atomically
from data.image_files import seems_image
from data.images import FORMATS, encode, is_image
from data.paths import is_file, is_folder, refuse_unnamed

FACE = re.compile(r"(.+)_face[1-9]\d*(_lr)?\.png")  # NAME_face1_lr.png as found, NAME_face1.png as improved


@dataclass(frozen=True)
class Output:
    """Where results go, what they are called, and what is written of each."""

    folder: Path
    name: str | None = None  # of the only result; None: the name of its source, with `suffix`
    suffix: str = ""
    extension: str = ".png"
    quality: int = 95  # of JPEG and WebP
    scales: tuple[float, ...] = ()  # of a sweep, where they are two or more: a result for each, and a strip of them
    compared: bool = False  # a sheet beside each result: bicubic | result
    faces: Path | None = None  # the folder to which the faces of photographs go as well

    @classmethod
    def of(
        cls,
        path: str | Path,  # a folder, or where its name ends as that of an image does, the file of the only result
        inputs: Sequence[str | Path],
        extension: str | None = None,  # as "png"
        quality: int | None = None,
        suffix: str = "",
        scales: Sequence[float] = (),
        compared: bool = False,
        faces: str | Path | None = None,
    ) -> "Output":
        """Raises UserError where these do not go together."""
        path = Path(path)
        is_single = is_file(path) or (path.suffix.lower() in FORMATS and not is_folder(path))
        sweep = tuple(dict.fromkeys(scales)) if len(scales) > 1 else ()
        if not is_single and not is_folder(path) and (is_image(path.name) or seems_image(path)):
            endings = ", ".join(FORMATS)
            raise UserError(f"--output {path}: {path.suffix} is not written; name a file that ends in {endings}")
        if is_single:
            refuse_unnamed(path, "--output")
            refuse_file(path, inputs, extension, suffix, sweep)
        ending = path.suffix.lower() if is_single else f".{extension or 'png'}"
        if quality is not None and FORMATS[ending] == "PNG":
            raise UserError(f"--quality {quality}: PNG loses nothing; give --ext jpg or --ext webp with it")
        if "/" in suffix or "\0" in suffix:
            raise UserError(f"--suffix {suffix!r}: cannot be part of a file name")
        folder, name = (path.parent, path.name) if is_single else (path, None)
        return cls(folder, name, suffix, ending, quality or 95, sweep, compared, Path(faces) if faces else None)

    def target(self, name: Path) -> Path:
        """The file of the result for an input that has this path inside the output."""
        return self.folder / (self.name or name.with_name(f"{name.stem}{self.suffix}{self.extension}"))

    def result(self, target: Path, scale: float | None) -> Path:
        """The file of one result of a sweep."""
        return beside(target, f"_x{scale:g}", self.extension) if self.scales else target

    def strip(self, target: Path) -> Path:
        """The picture of a whole sweep."""
        return beside(target, "_sweep", ".png")

    def sheet(self, result: Path) -> Path:
        """The picture of a result beside bicubic enlargement."""
        return beside(result, "_compare", ".png")

    def results(self, target: Path) -> list[Path]:
        """The files of the results for one input: one, or those of a sweep."""
        return [self.result(target, scale) for scale in self.scales or (None,)]

    def files(self, target: Path) -> list[Path]:
        """All that is written for one input, but for its faces, of which nobody knows the number."""
        results = self.results(target)
        sheets = [self.sheet(result) for result in results] if self.compared else []
        return [*results, *sheets, *([self.strip(target)] if self.scales else [])]

    def faces_of(self, target: Path) -> list[Path]:
        """What the files of one input's faces begin with, where they are written too: FOLDER/NAME for each result."""
        results = self.results(target) if self.faces else []
        return [Path(self.faces or "", result.relative_to(self.folder)).with_suffix("") for result in results]

    def is_there(self) -> bool:
        """Whether anything is where results go, or may be, in a folder that cannot be listed."""
        try:
            return is_folder(self.folder) and any(self.folder.iterdir())
        except OSError:
            return True

    def is_earlier_result(self, root: Path, file: Path) -> bool:
        """Whether a file is a result by its suffix, where results go into the input folder itself."""
        is_inside = bool(self.suffix) and is_folder(self.folder) and self.folder.samefile(root)
        return is_inside and file.stem.endswith(self.suffix) and file.suffix == self.extension

    def write(self, image: Image.Image, file: Path, exif: bytes, is_tagged: bool) -> None:
        """Writes a result, whole or not at all. Raises DataError."""
        try:
            content = encode(image, file.suffix.lower(), self.quality, exif, is_tagged)
        except (OSError, ValueError) as error:
            raise DataError(f"cannot write {file}: {reason(error)}") from None
        write_atomically(file, content)


def refuse_file(
    path: Path, inputs: Sequence[str | Path], extension: str | None, suffix: str, sweep: Sequence[float]
) -> None:
    """Raises UserError where a file cannot be the output."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--output {path}: is a file; give a folder, or a name that ends in {', '.join(FORMATS)}")
    if len(inputs) > 1 or is_folder(inputs[0]):
        raise UserError(f"--output {path}: is a file, for one input that is a file too; give a folder")
    if extension and FORMATS[f".{extension}"] != FORMATS[path.suffix.lower()]:
        raise UserError(f"--output {path}: --ext {extension} says otherwise; leave one of them out")
    if suffix or sweep:
        raise UserError(f"--output {path}: is one file; with --suffix or several scales, give a folder")


def beside(file: Path, addition: str, extension: str) -> Path:
    """A file in the same folder, its name with an addition."""
    return file.with_name(f"{file.stem}{addition}{extension}")


def face_file(file: Path, number: int, kind: str = "") -> Path:
    """The file of a face beside another file, NAME.png: NAME_face1.png."""
    return beside(file, f"_face{number}{kind}", ".png")


def begins_with(file: Path) -> Path | None:
    """FOLDER/NAME for the file of a face, as `face_file` calls it; None for any other."""
    match = FACE.fullmatch(file.name)
    return file.with_name(match[1]) if match else None
