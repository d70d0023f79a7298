"""Pictures to test with."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture():
    """picture(width, height, seed) -> an RGB image with structure at all scales, no two alike."""

    def make(width, height, seed=0):
        rng = np.random.default_rng(seed)
        layers = [rng.integers(0, 256, (n, n, 3), dtype=np.uint8) for n in (3, 9, 40)]
        resized = [np.asarray(Image.fromarray(a).resize((width, height), Image.Resampling.BICUBIC)) for a in layers]
        return Image.fromarray(np.mean(resized, axis=0).astype(np.uint8))

    return make


@pytest.fixture
def photos(tmp_path, picture):
    """A folder `photos` of seven PNG images of several shapes: 1.png ... 7.png."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(1, 8):
        picture(40 + 7 * i, 61 - 3 * i, i).save(folder / f"{i}.png")
    return folder
