"""Faces are found once, where they are, and placed as FFHQ places them; nothing else is."""

import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
from PIL import Image

from core.errors import UserError
from core.faces.cascades import CASCADES, opencv
from core.faces.detection import Face, distinct, find_faces

EYES, MOUTH = ((203.7, 100.3), (247, 103.3)), ((204.2, 140), (244.2, 141.7))  # of the astronaut, found by eye


needs_opencv = pytest.mark.skipif(find_spec("cv2") is None, reason="needs requirements-faces.txt")


@pytest.fixture(params=["lbp", pytest.param("opencv", marks=needs_opencv)])
def cascade(request):
    return CASCADES[request.param]()


def ffhq_square(eyes, mouth):
    """The square of a face as FFHQ's authors cut it (Karras et al. 2019), without its turn: (centre, side)."""
    eyes, mouth = np.array(eyes), np.array(mouth)
    between, down = eyes[1] - eyes[0], mouth.mean(0) - eyes.mean(0)
    half = max(2 * np.hypot(*between), 1.8 * np.hypot(*down))
    return eyes.mean(0) + 0.1 * down, 2 * half


def astronaut(side):
    return Image.fromarray(skimage.data.astronaut()).resize((side, side), Image.Resampling.BICUBIC)


def check_placed(face, centre, side):
    assert np.hypot(*np.subtract(face.centre, centre)) < 0.1 * side
    assert 0.75 < face.side / side < 1.25


def test_a_face_is_found_and_placed_as_ffhq_does(cascade):
    side = 128
    (face,) = find_faces(astronaut(side), cascade)
    centre, square = ffhq_square(EYES, MOUTH)
    check_placed(face, centre * side / 512, square * side / 512)


def test_every_face_of_a_photograph_is_found_once(cascade):
    """The astronaut, twice and mirrored, in a photograph of a cup."""
    photo = Image.fromarray(skimage.data.coffee()).resize((240, 160), Image.Resampling.BICUBIC)
    centre, square = ffhq_square(EYES, MOUTH)
    expected = []
    for scale, corner, mirrored in ((0.3, (10, 10), False), (0.2, (150, 90), True)):
        box = 130, 20, 320, 190
        size = round(190 * scale), round(170 * scale)
        face = Image.fromarray(skimage.data.astronaut()).crop(box).resize(size, Image.Resampling.BICUBIC)
        x = (centre[0] - box[0]) * scale
        photo.paste(face.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else face, corner)
        x = size[0] - x if mirrored else x
        expected.append(((corner[0] + x, corner[1] + (centre[1] - box[1]) * scale), square * scale))
    faces = find_faces(photo, cascade)
    assert len(faces) == 2
    for place, side in expected:
        check_placed(min(faces, key=lambda face: np.hypot(*np.subtract(face.centre, place))), place, side)


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket"])
def test_none_is_found_where_there_is_none(cascade, name):
    photo = Image.fromarray(getattr(skimage.data, name)())
    photo.thumbnail((128, 128), Image.Resampling.BICUBIC)
    assert find_faces(photo, cascade) == []


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (30, 9)])
def test_the_smallest_images_have_none(cascade, size):
    assert find_faces(Image.new("RGB", size, (200, 120, 90)), cascade) == []


def test_doubles_are_left_out():
    surest, shifted, inside, other = Face(10, 10, 40), Face(20, 5, 40), Face(22, 22, 16), Face(60, 10, 40)
    assert distinct([surest, shifted, inside, other]) == [surest, other]


def test_without_opencv_a_line_says_what_to_install(monkeypatch, capsys):
    opencv.cache_clear()
    monkeypatch.setattr("requirements.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        opencv()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "pip install -r requirements-faces.txt" in said


def test_an_opencv_without_cascades_says_which_to_install(monkeypatch, tmp_path):
    """OpenCV 5 has none."""
    opencv.cache_clear()
    monkeypatch.setattr("requirements.find_spec", lambda name: name)
    other = SimpleNamespace(__version__="5.0.0", data=SimpleNamespace(haarcascades=f"{tmp_path}/"))
    monkeypatch.setitem(sys.modules, "cv2", other)
    with pytest.raises(UserError, match=r"OpenCV 5\.0\.0 brings no .*requirements-faces\.txt"):
        opencv()
