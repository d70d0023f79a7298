"""Pictures as text inside a page, none larger than its share of it."""

import functools
from base64 import b64encode
from io import BytesIO

import numpy as np
from PIL import Image

from core.report.pictures import coloured

LOSSLESS = 128  # pixels: larger images are compressed with a loss
QUALITIES = (92, 80, 60)  # of WebP
LARGEST_SIDE = 16383  # pixels that WebP can have
LEAST_BYTES = 1 / 12  # of a pixel, at the lowest quality: less is not worth a try
ERROR_RANGE = 64  # grey levels of error that the brightest colour stands for, and all above

# Stops of a colour map, from no error to ERROR_RANGE: each is brighter than the one before it.
ERROR_COLOURS = np.array([(8, 8, 20), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191)])


def data_uri(image: Image.Image, share: int) -> str:
    """An RGB image as WebP in a data URI. Small ones stay as they are, pixel by pixel; of others, quality and then size
    go down until it has no more than `share` bytes."""
    if max(image.size) <= LOSSLESS:
        encoded = encode(image, lossless=True)
        if len(encoded) <= share:
            return as_uri(encoded)
    while True:
        if max(image.size) <= LARGEST_SIDE and image.width * image.height * LEAST_BYTES <= share:
            for quality in QUALITIES:
                encoded = encode(image, quality=quality)
                if len(encoded) <= share:
                    return as_uri(encoded)
        if max(image.size) < 2:
            return as_uri(encode(image, quality=QUALITIES[-1]))
        image = image.reduce(2)


def thumbnail(image: Image.Image, side: int) -> str:
    """A small copy, of at most `side` pixels, as a data URI."""
    small = image.copy()
    small.thumbnail((side, side))
    return as_uri(encode(small, quality=80))


def encode(image: Image.Image, lossless: bool = False, quality: int = 80) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "WebP", lossless=lossless, quality=quality, method=2)
    return buffer.getvalue()


def as_uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{b64encode(webp).decode()}"


def error_map(image: Image.Image, truth: Image.Image) -> Image.Image:
    """The absolute difference of two RGB images of one size, its mean over the channels, in colours."""
    values, true_values = (np.asarray(each, dtype=np.int16) for each in (image, truth))
    difference = np.abs(values - true_values).sum(axis=2).clip(max=3 * ERROR_RANGE)
    return Image.fromarray(error_colours()[difference])


@functools.cache
def error_colours() -> np.ndarray:
    """The colour (3 bytes) of each sum of differences over three channels."""
    return coloured(np.arange(3 * ERROR_RANGE + 1), ERROR_COLOURS, 3 * ERROR_RANGE)
