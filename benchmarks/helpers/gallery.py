"""Draws the pictures of the README."""

from pathlib import Path

import matplotlib
import skimage.data
from PIL import Image, ImageDraw, ImageFont

from core.inference import upscale
from core.lines import write_line
from data.files import make_writable, write_atomically
from data.images import encode, resize

Box = tuple[int, int, int, int]  # left, top, right, bottom
GAP = 6  # pixels between two tiles
FACE: Box = (138, 20, 314, 196)  # of the astronaut: the eyes where FFHQ has them
DETAILS: dict[str, Box] = {"chelsea": (130, 60, 380, 280), "coffee": (130, 100, 380, 320)}


def draw(folder: Path, device: str = "auto") -> None:
    """Writes face.png and photo.jpg."""
    make_writable(folder)
    save(row_of_tiles(face_tiles(device), (208, 208)), folder / "face.png")
    rows = [row_of_tiles(photo_tiles(name, box, device), size_of(box)) for name, box in DETAILS.items()]
    save(stacked(rows), folder / "photo.jpg")


def save(picture: Image.Image, file: Path) -> None:
    write_atomically(file, encode(picture, file.suffix, quality=90))
    write_line(f"{file}: {picture.width}x{picture.height}")


def face_tiles(device: str) -> dict[str, Image.Image]:
    """Caption -> image, of a face of 16×16 pixels and what becomes of it."""
    truth = resize(Image.fromarray(skimage.data.astronaut()).crop(FACE), (128, 128))
    lr = resize(truth, (16, 16))
    [one], [small], [chain] = (
        upscale([lr], network, 8, preset=preset, device=device)
        for network, preset in (("faces", None), ("faces-small", None), ("faces-chain", "quality"))
    )
    return {
        "16×16": lr.resize(truth.size, Image.Resampling.NEAREST),
        "bicubic": resize(lr, truth.size),
        "faces, one call": one,
        "faces-small, one call": small,
        "faces-chain, 20 calls": chain,
        "truth": truth,
    }


def photo_tiles(name: str, box: Box, device: str) -> dict[str, Image.Image]:
    """Caption -> image, of a part of a photograph that is enlarged as a whole."""
    photo = Image.fromarray(getattr(skimage.data, name)())
    photo = photo.crop((0, 0, photo.width // 4 * 4, photo.height // 4 * 4))
    lr = resize(photo, (photo.width // 4, photo.height // 4))
    [faithful], [sharp] = (upscale([lr], network, 4, device=device) for network in ("photos-faithful", "photos"))
    whole = {
        "a quarter of the size": lr.resize(photo.size, Image.Resampling.NEAREST),
        "bicubic": resize(lr, photo.size),
        "photos-faithful": faithful,
        "photos": sharp,
        "truth": photo,
    }
    return {caption: image.crop(box) for caption, image in whole.items()}


def row_of_tiles(tiles: dict[str, Image.Image], size: tuple[int, int]) -> Image.Image:
    width, height = size
    row = Image.new("RGB", (len(tiles) * (width + GAP) - GAP, height), "white")
    for n, (caption, image) in enumerate(tiles.items()):
        tile = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        row.paste(captioned(tile, caption), (n * (width + GAP), 0))
    return row


def captioned(tile: Image.Image, caption: str) -> Image.Image:
    """A copy with white words on black in its lower left corner."""
    tile = tile.copy()
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 12)
    pen, place = ImageDraw.Draw(tile), (7, tile.height - 8)
    left, top, right, bottom = pen.textbbox(place, caption, font, anchor="ls")
    pen.rectangle((left - 4, top - 4, right + 4, bottom + 4), fill="black")
    pen.text(place, caption, "white", font, anchor="ls")
    return tile


def stacked(rows: list[Image.Image]) -> Image.Image:
    """The rows, all of one size, one below the other."""
    width, height = rows[0].size
    picture = Image.new("RGB", (width, len(rows) * (height + GAP) - GAP), "white")
    for n, row in enumerate(rows):
        picture.paste(row, (0, n * (height + GAP)))
    return picture


def size_of(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]
