"""Pixels between files and Pillow images: decoding to 8-bit RGB, cropping, resizing, encoding."""

import functools
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from data.errors import DataError, reason
from data.files import write_atomically
from data.memory import LARGEST_SIDE

RESAMPLE = {  # all antialiased; area is the mean over the pixels that a new one covers
    "area": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # that are written
LARGEST_SIDES = {"PNG": LARGEST_SIDE, "JPEG": 65_500, "WEBP": 16_383}  # pixels, of each format
LARGEST_JPEG_EXIF = 65_500  # bytes
TAG = ExifTags.Base
LASTING_TAGS = (TAG.ImageDescription, TAG.Make, TAG.Model, TAG.Software, TAG.DateTime, TAG.Artist, TAG.Copyright)
PASSING_TAGS = (TAG.ColorSpace, TAG.ExifImageWidth, TAG.ExifImageHeight, TAG.ExifInteroperabilityOffset)
NOT_DECODED = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # formats that Pillow knows by name and cannot read by itself
DEEP_FORMATS = {"PNG", "PPM"}  # have 16 bits where a version of Pillow gives 32
ANIMATED = {"GIF", "PNG", "WEBP"}
GREY = ("1", "L", "LA", "RGB")  # modes of an image that a profile of grey may be of; RGB where alpha was taken off
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF


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
    """An image file (a path, or its bytes) as upright 8-bit sRGB, transparency composited over white.

    `name` stands for the source in errors. Raises DataError for whatever cannot be read whole. Of other damage
    only PNG tells: other formats, as JPEG, have no checksum, and Pillow keeps its decoders' warnings to itself.
    """
    return read_picture(source, name).over_white()


def read_rgba(source: str | Path | bytes, name: str | None = None) -> tuple[Image.Image, Image.Image | None]:
    """Like `read_rgb`, with the colour as stored and the transparency apart: (RGB image, "L" image or None)."""
    picture = read_picture(source, name)
    return picture.rgb, picture.alpha


class Picture(NamedTuple):
    """What an image file holds."""

    rgb: Image.Image  # upright, 8 bits, sRGB
    alpha: Image.Image | None  # "L"
    exif: bytes  # what is true of a copy as well: camera, time, place, author, ...; or nothing
    is_tagged: bool  # whether a profile said what its colours mean
    notices: tuple[str, ...] = ()  # what was read otherwise than the file has it, each a sentence about "it"

    def over_white(self) -> Image.Image:
        """Its colours, transparency composited over white."""
        if self.alpha is None:
            return self.rgb
        return Image.composite(self.rgb, Image.new("RGB", self.rgb.size, "white"), self.alpha)


def read_picture(source: str | Path | bytes, name: str | None = None) -> Picture:
    """Like `read_rgba`, with what else the file tells."""
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
            if image.format == "PNG":
                _check_png(source if isinstance(source, bytes) else Path(source).read_bytes())
            return picture_of(image)
    except Exception as error:  # Pillow's decoders raise whatever their parsers stumble over
        cause = "not an image that Pillow knows" if isinstance(error, UnidentifiedImageError) else reason(error)
        label = name or ("(bytes)" if isinstance(source, bytes) else source)
        raise DataError(f"cannot read image {label}: {cause}") from None


def picture_of(image: Image.Image) -> Picture:
    """What an image of Pillow holds. Raises whatever Pillow's decoders do."""
    image.load()
    _refuse_misread(image)
    is_deep = _is_deep(image)
    upright = ImageOps.exif_transpose(image)
    notices = []
    try:
        rgb, alpha = _colour_and_alpha(upright, is_deep)
        is_tagged = bool(image.info.get("icc_profile"))
    except DamagedProfile:
        notices.append("its colour profile is damaged: its colours are taken as sRGB")
        upright.info.pop("icc_profile")
        (rgb, alpha), is_tagged = _colour_and_alpha(upright, is_deep), False
    exif = _lasting_exif(image)
    if number := _animated_frames(image):
        notices.append(f"of its {number} frames only the first is read")
    return Picture(rgb, alpha, exif, is_tagged, tuple(notices))


def _is_deep(image: Image.Image) -> bool:
    """Whether integers that Pillow gives with 32 bits are of 16 bits in the file."""
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (32,))[0]
    return image.format in DEEP_FORMATS or bits == 16


def _animated_frames(image: Image.Image) -> int:
    """How many frames an animated image has; 0 where it is none, or is damaged after the first."""
    try:
        return image.n_frames if image.format in ANIMATED and image.is_animated else 0  # type: ignore[attr-defined]
    except Exception:  # Pillow's decoders raise whatever their parsers stumble over
        return 0


def _lasting_exif(image: Image.Image) -> bytes:
    """Of the EXIF of an image, what does not describe the file or its pixels; nothing where it is damaged."""
    try:
        exif, kept = image.getexif(), Image.Exif()
        kept.update({tag: exif[tag] for tag in LASTING_TAGS if tag in exif})
        is_empty = not kept
        for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            values = {tag: value for tag, value in exif.get_ifd(ifd).items() if tag not in PASSING_TAGS}
            if values:
                kept.get_ifd(ifd).update(values)
                is_empty = False
        return b"" if is_empty else kept.tobytes()
    except Exception:  # as above
        return b""


class DamagedProfile(Exception):
    """A colour profile that cannot be read or used."""


def _colour_and_alpha(image: Image.Image, is_deep: bool) -> tuple[Image.Image, Image.Image | None]:
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image, alpha = _deep_grey(image, is_deep)
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image, alpha = rgba.convert("RGB"), rgba.getchannel("A")
    try:
        rgb = _to_srgb(image, profile) if profile else image.convert("RGB")
    except (OSError, ImageCms.PyCMSError) as error:
        if not profile:
            raise
        raise DamagedProfile from error
    rgb.info = {}  # a profile, a gamma or a transparent colour that it no longer has, and Pillow would write
    return rgb, alpha


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An image of any 8-bit mode, its colours as an ICC profile means them, in sRGB.

    A profile of another kind than the image's, as one of grey on colours, means nothing.
    """
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    mode = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}.get(source.profile.xcolor_space.strip())
    if mode == "RGB" or (mode == "L" and image.mode in GREY):
        image = image.convert(mode)
    if image.mode != mode or (source.profile.profile_description or "").startswith("sRGB"):
        return image.convert("RGB")
    converted = ImageCms.profileToProfile(
        image,
        source,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # as it is not done in place
    return converted


def _deep_grey(image: Image.Image, is_deep: bool) -> tuple[Image.Image, Image.Image | None]:
    """16-bit, 32-bit and floating-point grey as "L", which Pillow's own conversion would clip at 255."""
    values = np.asarray(image, dtype=np.float64)
    white = _white_of(image.mode, values, is_deep)
    grey = np.rint(values.clip(0, white) * 255 / white).astype(np.uint8)
    key = image.info.get("transparency")
    alpha = None if key is None else Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
    return Image.fromarray(grey), alpha


def _check_png(content: bytes) -> None:
    """Looks at the checksums, which Pillow does only in a `verify` that opens the file anew and takes half as long as
    decoding it."""
    at, kind = 8, b""
    while kind != b"IEND":
        size = int.from_bytes(content[at : at + 4], "big")
        end = at + 8 + size
        kind, checksum = content[at + 4 : at + 8], content[end : end + 4]
        if len(checksum) < 4 or zlib.crc32(content[at + 4 : end]) != int.from_bytes(checksum, "big"):
            raise ValueError("damaged PNG: a checksum is wrong, or its end is missing")
        at = end + 4


def _refuse_misread(image: Image.Image) -> None:
    """Pillow neither scales 12-bit grey of TIFF files nor inverts deep grey of which 0 is white."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return
    tags = getattr(image, "tag_v2", {})
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO or tags.get(BITS_PER_SAMPLE, (16,))[0] not in (8, 16, 32, 64):
        raise ValueError("grey of a kind that Pillow misreads; save it with 8 or 16 bits, 0 for black")


def _white_of(mode: str, values: np.ndarray, is_deep: bool) -> float:
    """The value that means white: 65535 for integers of 16 bits; for others 255 or 65535, by range; for floats 1
    (overshoot is clipped), 255 or 65535, by range."""
    low, high = values.min(), values.max()
    if mode == "F":
        white = next((w for w, top in ((1, 2), (255, 255), (65535, 65535)) if high <= top), None)
        if white is not None and low >= -white / 4:  # a slight undershoot is clipped; a NaN passes no comparison
            return white
    elif low >= 0 and high <= 65535:
        return 255 if mode == "I" and not is_deep and high <= 255 else 65535
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
    return encode(image, ".png")


def save_png(image: Image.Image, path: str | Path) -> None:
    """Writes a PNG that is there whole or not at all."""
    write_atomically(path, encode_png(image))


def encode(
    image: Image.Image,  # sRGB
    extension: str,  # of FORMATS
    quality: int = 95,  # 1 to 100, of JPEG and WebP
    exif: bytes = b"",
    is_tagged: bool = False,  # with a profile, which says that it is sRGB
) -> bytes:
    """The bytes of an image file. JPEG has no transparency: there the image lies on white. Raises ValueError or OSError
    where the format cannot hold it, as a side beyond LARGEST_SIDES."""
    options: dict[str, Any] = {"icc_profile": srgb_profile()} if is_tagged else {}
    if exif and (FORMATS[extension] != "JPEG" or len(exif) <= LARGEST_JPEG_EXIF):
        options["exif"] = exif
    if extension != ".png":
        options["quality"] = quality
    if FORMATS[extension] == "JPEG":
        image = on_white(image)
        options["subsampling"] = 0 if quality >= 90 else 2
    buffer = BytesIO()
    image.save(buffer, FORMATS[extension], **options)
    return buffer.getvalue()


def on_white(image: Image.Image) -> Image.Image:
    """An image without transparency."""
    if image.mode != "RGBA":
        return image
    return Image.composite(image.convert("RGB"), Image.new("RGB", image.size, "white"), image.getchannel("A"))


@functools.cache
def srgb_profile() -> bytes:
    """The ICC profile of sRGB; the same bytes each time, which takes away the time of its making."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)
    return bytes(profile)
