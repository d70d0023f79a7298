"""Damaged images: each is read as RGB, or refused in one line, soon, in bounded memory."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from data.images import read_rgba
from tests.fuzz.hostile import answers, bounded_memory, count, damaged_bytes

FORMS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "PPM", "TGA", "SGI", "PCX", "ICO")
MODES = ("RGB", "L", "RGBA", "P", "1", "I;16", "LA", "CMYK")


@pytest.fixture(scope="module")
def whole():
    """The bytes of an image in each form and mode that go together."""
    y, x = np.mgrid[:24, :32]
    colours = Image.fromarray(np.stack([8 * x, 10 * y, 4 * (x + y)], axis=2).astype(np.uint8))
    made = []
    for form in FORMS:
        for mode in MODES:
            grey = Image.fromarray((colours.convert("L") * np.uint16(257)).astype(np.uint16))
            image = grey if mode == "I;16" else colours.convert(mode)
            try:
                image.save(buffer := io.BytesIO(), form)
            except (OSError, ValueError, KeyError):
                continue
            made.append(buffer.getvalue())
    assert len(made) > 30
    return made


def test_damaged_images(whole):
    with bounded_memory():
        for seed in range(count(300, 3000)):
            rng = random.Random(seed)
            content = rng.choice(whole)
            for _ in range(rng.choice((1, 1, 1, 3))):
                content = damaged_bytes(content, rng) or b"x"
            with answers(f"image {seed}"):
                rgb, alpha = read_rgba(content)
                assert rgb.mode == "RGB" and not rgb.info and (alpha is None or alpha.size == rgb.size)
