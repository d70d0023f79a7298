"""Super-resolves image files with a network.

python infer.py -i face.png -o results                         with a network that comes with the project
python infer.py -r CHECKPOINT -i photos/ more/a.png -o results --scale 4 --steps 50 --solver dpm++
python infer.py --about                                        what the networks are for that come with it

Without -r, each image gets the network that suits its size, and a line says which. A result is OUT/NAME.png, NAME being
the input's, in the subfolders that the input folder has; transparency is kept. It is as large as the images that the
network was trained to make; a network trained on crops enlarges every image by its factor. An image that a network is
not for gets a notice, and is done. An input is never overwritten. Linked folders are followed, each once. A file that
cannot be read is named, and the rest goes on. Where memory is short, fewer images are done at once, and fewer decoder
calls. Exit code: 0, all images are done; 1, some failed or were left out; 2, nothing was done, and one line says why.
"""

import argparse
import math
import sys
from collections.abc import Sequence

from core.command_line import Parser, add_sample_flags, count, sample_flags
from core.config import PRESETS
from core.errors import one_line_errors
from core.shipped import CHECKPOINT, FILES, SMALL, is_there


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)

    # Here, as torch takes a second to import, for which --help and a wrong option need not wait.
    from core.about import about
    from core.device import compute_deterministically, pick_device
    from core.inference import plan_jobs, size_of_first, super_resolve_files
    from core.network_choice import Networks

    if arguments.about:
        print("\n\n".join(map(about, [arguments.checkpoint] if arguments.checkpoint else filter(is_there, FILES))))
        return 0
    if arguments.deterministic:
        compute_deterministically()
    jobs, left_out, others = plan_jobs(arguments.input, arguments.output)
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    networks = Networks(arguments.checkpoint, pick_device(arguments.device), sample_flags(arguments), arguments.preset)
    networks.of(size_of_first(jobs))  # before anything is written, as what is wrong with flags is found here
    failed = super_resolve_files(networks, jobs, arguments.scale, arguments.size, arguments.batch_size)
    told = f"; {len(left_out)} left out" if left_out else ""
    print(f"{len(jobs) - failed} of {len(jobs)} images written to {arguments.output}{told}{others}")
    return 1 if failed or left_out else 0


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
    add("-o", "--output", metavar="OUT", help="folder of the results; made where it is missing")
    add("--about", action="store_true", help="say what a network, or each that comes with the project, is for, and end")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scale", type=magnification, help="times larger, 1 or more (default: to the size of training)")
    size.add_argument("--size", type=pixels, metavar="N|WxH", help="pixels of the longer side, or width and height")
    add("--batch-size", type=count, default=1, metavar="B", help="most images of equal size at once (default: 1)")
    add("--deterministic", action="store_true", help="the same bits each time on a GPU too, somewhat slower")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps or xpu (default: auto, CUDA where it is)")

    sampling = parser.add_argument_group("sampling (defaults: the `sample` section of the checkpoint's config)")
    help = "a choice of all of these, which they change; docs/results.md measures them"
    sampling.add_argument("--preset", choices=PRESETS, help=help)
    add_sample_flags(sampling)
    return parser


def magnification(text: str) -> float:
    value = float(text)
    if not 1 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of 1 or more")
    return value


def pixels(text: str) -> tuple[int, ...]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text} is neither N, the longer side in pixels, nor WxH")
    return tuple(map(int, sides))


if __name__ == "__main__":
    sys.exit(main())
