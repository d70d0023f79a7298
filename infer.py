"""Super-resolves image files with a network.

python infer.py -i face.png -o results                         with a network that comes with the project
python infer.py -r CHECKPOINT -i photos/ more/a.png -o results --scale 4 --steps 50 --solver dpm++
python infer.py --about                                        what the networks are for that come with it

Without -r, each image gets the network that suits its size, and a line says which. A result is OUT/NAME.png, NAME being
the input's, in the subfolders that the input folder has; transparency is kept. It is as large as the images that the
network was trained to make; a network trained on crops enlarges every image by its factor. An image that a network is
not for gets a notice, and is done. An input is never overwritten. Linked folders are followed, each once. A file that
cannot be read is named, and the rest goes on. Large photographs are made by tiles; where memory is short, fewer images
are done at once, and smaller tiles. Exit code: 0, all images are done; 1, some failed or were left out; 2, nothing was
done, and one line says why.
"""

import argparse
import math
import sys
from collections.abc import Sequence

from core.command_line import Parser, add_sample_flags, count, wait_passively
from core.config import PRESETS
from core.errors import one_line_errors
from core.shipped import CHECKPOINT, FILES, SMALL, is_there


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)

    # Here, as torch takes a second to import, for which --help need not wait.
    from core.about import about
    from core.infer_files import infer_files

    if arguments.about:
        print("\n\n".join(map(about, [arguments.checkpoint] if arguments.checkpoint else filter(is_there, FILES))))
        return 0
    return infer_files(arguments)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    reader = parser()
    arguments = reader.parse_args(argv)
    required = {"-i/--input": arguments.input, "-o/--output": arguments.output}
    missing = [flag for flag, value in required.items() if not value]
    if missing and not arguments.about:
        reader.error(f"the following arguments are required: {', '.join(missing)}")
    return arguments


def parser() -> Parser:
    parser = Parser(prog="infer.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    default = f"default: faces for images of at most {SMALL} pixels, photos for larger ones"
    add("-r", "--checkpoint", help=f"{CHECKPOINT} ({default})")
    add("-i", "--input", nargs="+", metavar="PATH", help="image files, and folders of them of any depth")
    out = "folder of the results, made where it is missing; or for one input the file to write, as result.png"
    add("-o", "--output", metavar="OUT", help=out)
    add("--about", action="store_true", help="say what a network, or each that comes with the project, is for, and end")
    size = parser.add_mutually_exclusive_group()
    scale = (
        "times larger, 1 or more, or several, as 2,4,6.5: a result for each and a strip of all (default: the network's)"
    )
    size.add_argument("--scale", type=magnifications, metavar="X[,X...]", help=scale)
    size.add_argument("--size", type=pixels, metavar="N|WxH", help="pixels of the longer side, or width and height")
    add(
        "--suffix", default="", metavar="TEXT", help="added to the names of results, as in photo_x4.png (default: none)"
    )
    add("--ext", choices=("png", "jpg", "webp"), help="the format of results (default: png, or that of -o FILE)")
    add("--quality", type=percent, metavar="Q", help="of jpg and webp, 1 to 100 (default: 95)")
    add("--compare", action="store_true", help="beside each result, NAME_compare.png: bicubic enlargement | result")
    add(
        "--skip-existing",
        action="store_true",
        help="leave results that are there as they are: go on where a run stopped",
    )
    add("--batch-size", type=count, default=1, metavar="B", help="most images of equal size at once (default: 1)")
    add("--deterministic", action="store_true", help="the same bits each time on a GPU too, somewhat slower")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps or xpu (default: auto, CUDA where it is)")

    sampling = parser.add_argument_group("sampling (defaults: the `sample` section of the checkpoint's config)")
    help = "a choice of all of these, which they change; docs/results.md measures them"
    sampling.add_argument("--preset", choices=PRESETS, help=help)
    add_sample_flags(sampling)
    return parser


def magnifications(text: str) -> tuple[float, ...]:
    """`2,4,6.5` -> (2, 4, 6.5)."""
    try:
        values = tuple(map(float, text.split(",")))
    except ValueError:
        values = (0,)
    if not all(1 <= value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f"{text} is no number of 1 or more, nor several of them, as 2,4,6.5")
    return values


def percent(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 to 100")
    return int(text)


def pixels(text: str) -> tuple[int, ...]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text} is neither N, the longer side in pixels, nor WxH")
    return tuple(map(int, sides))


if __name__ == "__main__":
    wait_passively()
    sys.exit(main())
