"""How large results are."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from core.config import Config
from core.inference.input_files import Size
from data import DataError
from data.images import FORMATS, LARGEST_SIDES
from data.memory import LARGEST_SIDE, refuse_too_large

BYTES_PER_PIXEL = 12  # of a result, as a tensor in float32
Asked = tuple[int, ...]  # a Size, or (N,), N for the longer side


def target_size(size: Size, magnification: float, asked: Asked | None = None) -> Size:
    """The size of the result for an image of `size`: the one that is asked for, or else `magnification` times as
    large."""
    if asked and len(asked) == 2:
        return asked[0], asked[1]
    factor = asked[0] / max(size) if asked else magnification
    width, height = (max(round(min(side * factor, LARGEST_SIDE + 1)), 1) for side in size)  # more is refused anyway
    return width, height


def usual_size(size: Size, config: Config) -> Size:
    """The size of the result where none is asked for.

    A network that was trained on whole images, such as faces, makes images as large as those: it knows what fills one.
    Trained on crops, it makes any image as many times larger as it learnt to.
    """
    images = config.trained_images
    asked = None if images.use_crop else (images.r_resolution,)
    return target_size(size, images.magnification, asked)


class Wanted(NamedTuple):
    """How large results are to be, and in which files; without magnification and size, as `usual_size` says."""

    magnification: float | None = None
    size: Asked | None = None
    extension: str = ".png"  # of the files

    @property
    def is_asked(self) -> bool:
        return bool(self.magnification or self.size)

    def for_image(self, size: Size, config: Config) -> Size:
        """The size of the result for an image of `size`; it may be smaller than that (`is_smaller`)."""
        return target_size(size, self.magnification or 1, self.size) if self.is_asked else usual_size(size, config)

    def size_of(self, source: Path, size: Size, config: Config) -> Size:
        """The size of the result for an image. Raises DataError where it would be smaller than the image."""
        result = self.for_image(size, config)
        if is_smaller(result, size):
            reason = "asked for" if self.is_asked else "this network makes; --scale and --size ask for more"
            raise DataError(f"{source} has {show(size)} pixels, more than the {show(result)} {reason}")
        check_fits(source, result, self.extension)
        return result

    def check_some_fit(self, images: Iterable[tuple[Path, Size]]) -> None:
        """Raises DataError where the size that is asked for is too large for each of the images."""
        problem = None
        for source, size in images if self.is_asked else ():
            try:
                check_fits(source, target_size(size, self.magnification or 1, self.size), self.extension)
                break
            except DataError as error:
                problem = problem or error
        else:
            if problem:
                raise problem


def check_fits(source: Path, result: Size, extension: str) -> None:
    """Raises DataError where a result is too large for this machine, or for its file."""
    what, advice = f"the result of {source}", "ask for less with --scale or --size"
    refuse_too_large(*result, BYTES_PER_PIXEL, what, advice)
    most = LARGEST_SIDES[FORMATS[extension]]
    if max(result) > most:
        sizes = f"{result[0]:,}x{result[1]:,} pixels, and a {extension} file holds {most:,} on a side"
        raise DataError(f"{what} has {sizes}; write a PNG (--ext png, or -o FILE.png), or {advice}")


def is_smaller(size: Size, than: Size) -> bool:
    """Whether width or height is."""
    return any(after < before for before, after in zip(than, size, strict=True))


def show(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
