"""Pixels between files and Pillow images: decoding to 8-bit RGB, cropping, resizing, encoding."""

import functools
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.errors import DataError, reason
from data.files import write_atomically

RESAMPLE = {  # all antialiased; area is the mean over the pixels that a new one covers
    "area": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
NOT_DECODED = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # formats that Pillow knows by name and cannot read by itself


@functools.cache
def image_extensions() -> frozenset[str]:
    """Lower-case file extensions that Pillow reads, with the dot."""
    formats = Image.registered_extensions()
    return frozenset(ext for ext, name in formats.items() if name in Image.OPEN and name not in NOT_DECODED)


def is_image(name: str) -> bool:
    """Whether a file name is that of an image; hidden files (temporaries, thumbnails) are none."""
    stem, _, extension = name.rpartition(".")
    return stem != "" and not name.startswith(".") and f".{extension.lower()}" in image_extensions()


# ---------------------------------------------------------------------------------------------------------------------
# File -> Pillow image.


def read_rgb(source: str | Path | bytes, name: str | None = None) -> Image.Image:
    """An image file (a path, or its bytes) as upright 8-bit RGB, transparency composited over white.

    `name` stands for the source in errors. Raises DataError for whatever cannot be read whole.
    """
    rgb, alpha = read_rgba(source, name)
    if alpha is None:
        return rgb
    return Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)


def read_rgba(source: str | Path | bytes, name: str | None = None) -> tuple[Image.Image, Image.Image | None]:
    """Like `read_rgb`, with the colour as stored and the transparency apart: (RGB image, "L" image or None)."""
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
            return _colour_and_alpha(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's decoders raise whatever their parsers stumble over
        cause = "not an image that Pillow knows" if isinstance(error, UnidentifiedImageError) else reason(error)
        label = name or ("(bytes)" if isinstance(source, bytes) else source)
        raise DataError(f"cannot read image {label}: {cause}") from None


def _colour_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    return image.convert("RGB"), None


def _deep_grey(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """16-bit, 32-bit and floating-point grey, which Pillow's own conversion would clip at 255."""
    values = np.asarray(image, dtype=np.float64)
    white = _white_of(image.mode, values)
    grey = np.rint(values.clip(0, white) * 255 / white).astype(np.uint8)
    key = image.info.get("transparency")
    alpha = None if key is None else Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
    return Image.fromarray(grey).convert("RGB"), alpha


def _white_of(mode: str, values: np.ndarray) -> float:
    """The value that means white: 65535 for integers; for floats 1 (overshoot is clipped), 255 or 65535, by range."""
    low, high = values.min(), values.max()
    if mode == "F":
        white = next((w for w, top in ((1, 2), (255, 255), (65535, 65535)) if high <= top), None)
        if white is not None and low >= -white / 4:  # a slight undershoot is clipped; a NaN passes no comparison
            return white
    elif low >= 0 and high <= 65535:
        return 65535
    raise ValueError(f"pixels from {low:g} to {high:g} have no known white; save it with 8 or 16 bits")


# ---------------------------------------------------------------------------------------------------------------------
# Pillow image -> Pillow image.


def centre_square(image: Image.Image) -> Image.Image:
    """The largest centred square."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def resize(image: Image.Image, size: tuple[int, int], resample: str = "bicubic") -> Image.Image:
    """Pillow's antialiased resize to (width, height); an image of that size already is kept exactly."""
    return image if image.size == tuple(size) else image.resize(size, RESAMPLE[resample])


# ---------------------------------------------------------------------------------------------------------------------
# Pillow image -> file.


def encode_png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def save_png(image: Image.Image, path: str | Path) -> None:
    """Writes a PNG that is there whole or not at all."""
    write_atomically(path, encode_png(image))
