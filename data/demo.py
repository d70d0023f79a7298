"""Makes the demo's images: square crops of photographs that scikit-image ships, so there is nothing to download.

    python data/demo.py --out demo --size 128

writes demo/train/*.png and demo/val/*.png (HR only), demo/unseen.png (LR only), and demo/unseen_truth.png to compare.
Validation shows the cat, and the unseen image is the face of the astronaut. No training crop shows either of them.
"""

import argparse
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import NamedTuple

if __name__ == "__main__":  # import from the repository, whatever the working directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from requirements import require_packages

    require_packages()

import skimage
from PIL import Image, ImageStat

from data.command_line import Parser
from data.errors import DataError
from data.images import read_rgb, resize, save_png
from data.paths import why_not_folder


class Square(NamedTuple):
    """A square part of a photograph, in pixels."""

    photo: str
    left: int
    top: int
    side: int

    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.side, self.top + self.side


TRAINING_PHOTOS = ("astronaut.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "camera.png")
FACE = Square("astronaut.png", 140, 15, 175)
VALIDATION = (
    Square("chelsea.png", 100, 40, 160),  # an eye
    Square("chelsea.png", 75, 0, 300),  # the whole face
    Square("chelsea.png", 245, 65, 140),  # the other eye
    Square("chelsea.png", 185, 140, 150),  # nose and mouth
    Square("chelsea.png", 20, 0, 150),  # forehead
    Square("chelsea.png", 300, 0, 150),  # ear
    Square("chelsea.png", 0, 160, 140),  # whiskers
    Square("chelsea.png", 200, 0, 140),  # brow
)
MOST_CROPS = 100_000  # for training; their names have five digits
LEAST_CONTRAST = 12  # standard deviation of the grey levels; a flat piece of sky teaches nothing


def make_demo(out: str | Path, size: int = 128, low: int = 32, count: int = 400, seed: int = 0) -> None:
    """Writes `count` training crops, the validation crops and the unseen image. Raises DataError.

    size: side of the HR images in pixels, at most 128;  low: side of the LR image. The same arguments, the same files.
    """
    if not 0 < low < size <= 128:
        raise DataError(f"--size {size} --low {low}: needs 0 < low < size <= 128")
    if not 1 <= count <= MOST_CROPS:
        raise DataError(f"--count {count}: give 1 to {MOST_CROPS:,}")
    out, rng = Path(out), Random(seed)
    photos = {name: read_photo(name) for name in {*TRAINING_PHOTOS, *(square.photo for square in (FACE, *VALIDATION))}}
    training = (training_crop(photos, TRAINING_PHOTOS[i % len(TRAINING_PHOTOS)], size, rng) for i in range(count))
    write_numbered(out / "train", (resize(crop, (size, size)) for crop in training))
    write_numbered(out / "val", (resize(cut(photos, square), (size, size)) for square in VALIDATION))
    truth = resize(cut(photos, FACE), (size, size))
    save_png(truth, out / "unseen_truth.png")
    save_png(resize(truth, (low, low)), out / "unseen.png")


def read_photo(name: str) -> Image.Image:
    """One of the photographs in scikit-image's package."""
    return read_rgb(Path(skimage.__file__).parent / "data" / name)


def cut(photos: dict[str, Image.Image], square: Square) -> Image.Image:
    return photos[square.photo].crop(square.box())


def training_crop(photos: dict[str, Image.Image], name: str, size: int, rng: Random) -> Image.Image:
    """A square of random place and scale (from `size` pixels to the whole height) with some contrast in it."""
    photo = photos[name]
    while True:
        side = round(math.exp(rng.uniform(math.log(size), math.log(min(photo.size)))))
        left, top = (round(rng.uniform(0, length - side)) for length in photo.size)
        square = Square(name, left, top, side)
        crop = cut(photos, square)
        if not overlap(square, FACE) and ImageStat.Stat(crop.convert("L")).stddev[0] >= LEAST_CONTRAST:
            return crop


def overlap(a: Square, b: Square) -> bool:
    """Whether two squares have a pixel in common."""
    along_x = a.left < b.left + b.side and b.left < a.left + a.side
    along_y = a.top < b.top + b.side and b.top < a.top + a.side
    return a.photo == b.photo and along_x and along_y


def write_numbered(folder: Path, images: Iterable[Image.Image]) -> None:
    """Writes 00000.png, 00001.png, ... and removes those of an earlier, longer run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make folder {folder}: {why_not_folder(folder, error)}; give another") from None
    names = set()
    for i, image in enumerate(images):
        names.add(f"{i:05d}.png")
        save_png(image, folder / f"{i:05d}.png")
    for old in folder.glob("[0-9][0-9][0-9][0-9][0-9].png"):
        if old.name not in names:
            old.unlink()


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--out", default="demo", help="output folder (default: demo)")
    add("--size", type=int, default=128, help="side of the HR images, at most 128 (default: 128)")
    add("--low", type=int, help="side of the unseen LR image (default: a quarter of --size)")
    count = f"number of training images, at most {MOST_CROPS:,} (default: 400)"
    add("--count", type=int, default=400, help=count)
    add("--seed", type=int, default=0, help="seed of the training crops (default: 0)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    try:
        args = parse_arguments(arguments)
        make_demo(args.out, args.size, args.low or args.size // 4, args.count, args.seed)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {args.count} training and {len(VALIDATION)} validation images, and unseen.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
