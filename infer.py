"""Super-resolves image files with a network.

python infer.py -i face.png -o results                         uses a network that comes with the project
python infer.py -r CHECKPOINT -i photos/ more/a.png -o results --scale 4 --steps 50 --solver dpm++
python infer.py --about                                        says what each of these networks is for

Without -r, each image goes to the network that suits its size, and a line says which. The result is OUT/NAME.png, with
the name of the input, in the same subfolders. Transparency is kept. By default, the result has the size that the
network was trained for; a network trained on crops enlarges every image by the same factor. If a network is not meant
for an image, a notice says so. Inputs are never overwritten. Linked folders are followed once. If a file cannot be
read, its name is printed, and the rest goes on. Large photographs are computed in tiles. If memory is short, batches
and tiles become smaller. With --faces, small faces in photographs are improved by a network for faces.

Exit code: 0 if all images are done; 1 if images failed or were left out, be it all of them; 2 if the command was
refused before an image was begun, and one line says why.
"""

import argparse
import math
import sys
from collections.abc import Sequence

from core.command_line import DEVICES, Parser, add_sample_flags, count, wait_passively
from core.config import PRESETS
from core.errors import one_line_errors
from core.shipped import CHECKPOINT, FILES, SMALL, is_there


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)

    # Here, as torch takes a second to import, for which --help need not wait.
    from core.inference.about import about
    from core.inference.command import infer_files

    if arguments.about:
        shipped = [file for name, file in FILES.items() if is_there(name)]
        print("\n\n".join(map(about, [arguments.checkpoint] if arguments.checkpoint else shipped)))
        return 0
    return infer_files(arguments)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    reader = parser()
    arguments = reader.parse_args(argv)
    required = {"-i/--input": arguments.input, "-o/--output": arguments.output}
    missing = [flag for flag, value in required.items() if not value]
    if missing and not arguments.about:
        reader.error(f"the following arguments are required: {', '.join(missing)}")
    for flag in ("save_faces", "face_detector"):
        if getattr(arguments, flag) and not arguments.faces:
            reader.error(f"--{flag.replace('_', '-')} needs --faces")
    return arguments


def parser() -> Parser:
    parser = Parser(several_processes=True, prog="infer.py", description=__doc__)
    add = parser.add_argument
    default = f"default: faces for images of at most {SMALL} pixels, photos for larger ones"
    add("-r", "--checkpoint", help=f"{CHECKPOINT} ({default})")
    add("-i", "--input", nargs="+", metavar="PATH", help="image files, and folders of images of any depth")
    out = "folder of the results, made if it does not exist; or, for one input, a file such as result.png"
    add("-o", "--output", metavar="OUT", help=out)
    add("--about", action="store_true", help="say what the network of -r, or each one of the project, is for, and exit")
    add_result_flags(parser)
    add_face_flags(parser)
    add_work_flags(parser)

    sampling = parser.add_argument_group("sampling (defaults: the `sample` section of the checkpoint's config)")
    help = "a named choice of the options below, which override it (docs/images.md compares them)"
    sampling.add_argument("--preset", choices=PRESETS, help=help)
    add_sample_flags(sampling)
    return parser


def add_result_flags(parser: Parser) -> None:
    """How large the results are, and their files."""
    add = parser.add_argument
    size = parser.add_mutually_exclusive_group()
    scale = (
        "magnification, 1 or more; several, such as 2,4,6.5, give a result each and a strip (default: the network's)"
    )
    size.add_argument("--scale", type=magnifications, metavar="X[,X...]", help=scale)
    sides = "size of the result: the longer side in pixels, or width and height"
    size.add_argument("--size", type=pixels, metavar="N|WxH", help=sides)
    add("--suffix", default="", metavar="TEXT", help="text added to the names of results, such as _x4 (default: none)")
    add("--ext", choices=("png", "jpg", "webp"), help="format of the results (default: png, or that of -o FILE)")
    add("--quality", type=percent, metavar="Q", help="quality of jpg and webp, 1 to 100 (default: 95)")
    add("--compare", action="store_true", help="also write NAME_compare.png: bicubic enlargement | result")


def add_face_flags(parser: Parser) -> None:
    add = parser.add_argument
    faces = "improve upright faces of 16 to 64 pixels in photographs with a network for faces (default: faces)"
    add("--faces", nargs="?", const=True, metavar="NETWORK", help=faces)
    save = "with --faces: also write each face, NAME_face1_lr.png as found and NAME_face1.png as improved"
    add("--save-faces", metavar="FOLDER", help=save)
    detector = "with --faces: what finds them; opencv finds more, and needs requirements-faces.txt (default: lbp)"
    add("--face-detector", choices=("lbp", "opencv"), help=detector)


def add_work_flags(parser: Parser) -> None:
    """What is done, and on what."""
    add = parser.add_argument
    skip = "skip results that already exist: continues a run that was stopped"
    add("--skip-existing", action="store_true", help=skip)
    batch = "largest number of images of equal size at once (default: 1)"
    add("--batch-size", type=count, default=1, metavar="B", help=batch)
    add("--deterministic", action="store_true", help="give the same bits each time on a GPU too; a little slower")
    add("--device", default="auto", help=DEVICES)


def magnifications(text: str) -> tuple[float, ...]:
    """`2,4,6.5` -> (2, 4, 6.5)."""
    try:
        values = tuple(map(float, text.split(",")))
    except ValueError:
        values = (0,)
    if not all(1 <= value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f"{text} is not a number of 1 or more, or several such as 2,4,6.5")
    if len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f"{text} names a magnification twice: each has its own result")
    return values


def percent(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to 100")
    return int(text)


def pixels(text: str) -> tuple[int, ...]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text} is neither a number of pixels nor WxH")
    return tuple(map(int, sides))


if __name__ == "__main__":
    wait_passively()
    sys.exit(main())
