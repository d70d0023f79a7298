"""How a face is cut out of a photograph and blended into the larger one."""

import numpy as np
import pytest
from PIL import Image

from core.faces.blending import Region, blend, cut, ellipse, matched
from core.faces.detection import Face


@pytest.fixture
def photo(make_image):
    return make_image(60, 40)


@pytest.fixture
def larger(photo):
    return photo.resize((240, 160), Image.Resampling.BICUBIC)


def test_a_region_is_the_face_at_the_magnification(photo, larger):
    region = Region.of(Face(10.1, 5.2, 20), photo, larger)
    assert region == (40, 21, 120, 101) and region.size == (80, 80)


def test_what_is_cut_out_lies_where_the_region_lies(photo, larger):
    """Where that is on whole pixels, the very pixels; beyond the border, mirrored ones."""
    inside = Region.of(Face(8, 4, 16), photo, larger)
    assert cut(photo, larger, inside, 16).tobytes() == photo.crop((8, 4, 24, 20)).tobytes()
    beyond = np.asarray(cut(photo, larger, Region.of(Face(-4, 30, 16), photo, larger), 16))
    pixels = np.asarray(photo)
    assert (beyond[:10, 4:] == pixels[30:, :12]).all()
    assert (beyond[:10, :4] == pixels[30:, 3::-1]).all() and (beyond[10:, 4:] == pixels[:33:-1, :12]).all()


@pytest.mark.parametrize("corner", [(80, 40), (-24, -24), (200, 110)])
def test_a_face_changes_its_ellipse_and_nothing_else(photo, larger, corner):
    """A checkerboard is blended in: in the middle it is all there is, and there is none outside the ellipse."""
    before = np.asarray(larger).astype(int)
    board = np.uint8((np.indices((80, 80)).sum(0) % 2)[..., None] * [255, 255, 255])
    region = Region(*corner, corner[0] + 80, corner[1] + 80)
    blend(larger, Image.fromarray(board), region, magnification=4)
    changed = np.abs(np.asarray(larger).astype(int) - before).max(2)
    y, x = np.mgrid[: larger.height, : larger.width] + 0.5
    radius = np.hypot((x - corner[0] - 40) / 40, (y - corner[1] - 40) / 40)
    assert changed[radius > 1.05].max() == 0
    assert changed[(radius < 0.4)].mean() > 60


def test_colours_are_those_of_the_photograph(larger):
    """A face that differs from the photograph by a tint alone becomes the photograph; its details are kept."""
    photo = np.asarray(larger, np.float32)[:80, :80]
    assert matched(photo + np.float32([30, -20, 10]), photo, 6) == pytest.approx(photo, abs=1e-3)
    details = np.float32(20 * (np.indices((80, 80)).sum(0) % 2 - 0.5))[..., None]
    assert matched(photo + 30 + details, photo, 6)[20:60, 20:60] == pytest.approx(
        (photo + details)[20:60, 20:60], abs=1
    )


def test_the_border_of_a_face_is_soft():
    weight = ellipse(96, 128)
    assert weight.shape == (128, 96) and weight[68, 48] == 1 and weight[0].max() == weight[:, 0].max() == 0
    assert np.abs(np.diff(weight, axis=0)).max() < 0.1 and np.abs(np.diff(weight, axis=1)).max() < 0.1
