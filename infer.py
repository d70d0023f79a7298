"""Super-resolves image files with a checkpoint.

python infer.py -i face.png -o results                         with the network for faces that comes with the project
python infer.py -r CHECKPOINT -i photos/ more/a.png -o results --scale 4 --steps 50 --solver dpm++

A result is OUT/NAME.png, NAME being the input's, in the subfolders that the input folder has; transparency is kept. It
is as large as the images that the network was trained to make; a network trained on crops enlarges every image by its
factor. An input is never overwritten. A file that cannot be read is named, and the rest goes on. Exit code: 0, all
images are done; 1, some failed; 2, nothing was done, and one line says why.
"""

import argparse
import math
import sys
from pathlib import Path

from core.checkpoint import load_network
from core.command_line import Parser, count
from core.config import PRESETS
from core.device import pick_device
from core.errors import one_line_errors
from core.inference import plan_jobs, sampling_settings, super_resolve_files

SHIPPED = Path(__file__).parent / "checkpoints" / "faces_16_128.safetensors"
SAMPLING = ("solver", "steps", "key_steps", "eta", "consistency", "start", "decode", "decode_batch", "seed")
SAMPLING += ("precision", "compile")


@one_line_errors()
def main(argv=None):
    arguments = parser().parse_args(argv)
    jobs = plan_jobs(arguments.input, arguments.output)
    device = pick_device(arguments.device)
    network, config = load_network(arguments.checkpoint, device)
    settings = sampling_settings(config, {key: getattr(arguments, key) for key in SAMPLING}, arguments.preset)
    failed = super_resolve_files(network, config, jobs, settings, arguments.scale, arguments.size, arguments.batch_size)
    print(f"{len(jobs) - failed} of {len(jobs)} images written to {arguments.output}")
    return 1 if failed else 0


def parser():
    parser = Parser(prog="infer.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    where = f"a file, the PREFIX of PREFIX_gen.*, or a folder, its latest (default: checkpoints/{SHIPPED.name})"
    add("-r", "--checkpoint", default=SHIPPED, help=where)
    add("-i", "--input", required=True, nargs="+", metavar="PATH", help="image files, and folders of them of any depth")
    add("-o", "--output", required=True, metavar="OUT", help="folder of the results; made where it is missing")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scale", type=scale, help="times larger, 1 or more (default: to the size that training made)")
    size.add_argument("--size", type=pixels, metavar="N|WxH", help="pixels of the longer side, or width and height")
    add("--batch-size", type=count, default=1, metavar="B", help="most images of equal size at once (default: 1)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto, the GPU where there is one)")

    sampling = parser.add_argument_group("sampling (defaults: the `sample` section of the checkpoint's config)")
    add = sampling.add_argument
    add("--preset", choices=PRESETS, help="a choice of all of these, which they change; docs/results.md measures them")
    add("--steps", metavar="N", help="denoising steps, at most the schedule's timesteps")
    add("--solver", metavar="NAME", help="ddpm, ddim or dpm++")
    add(
        "--key-steps",
        metavar="PLAN",
        help="steps that run the encoder: none (all do), uniform:K (each K-th), auto:N (N, closer together where "
        "python -m core.calibrate has seen its state change faster), a named set, or 0,5,10",
    )
    add("--eta", help="noise of ddim, from 0, none, to 1, as ddpm")
    add("--consistency", metavar="N", help="rounds of back-projection of each estimate onto the input (0: off)")
    add("--start", metavar="GAMMA", help="begin at this noise level, in (0, 1), from the up-sampled input")
    add("--decode", help="steps of a group that run the decoder: every (default), ends, or first, the fastest")
    add("--decode-batch", metavar="N", help="most decoder calls in one batch; fewer take less memory")
    add("--seed", help="of the noise; each image starts from the same, so a result depends on its own file alone")
    add("--precision", help="auto (fp16 on a GPU, float32 on a CPU), float32, bf16 or fp16")
    add("--no-compile", dest="compile", action="store_const", const=False, help="no CUDA graphs: starts sooner")
    return parser


def scale(text):
    value = float(text)
    if not 1 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of 1 or more")
    return value


def pixels(text):
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text} is neither N, the longer side in pixels, nor WxH")
    return tuple(map(int, sides))


if __name__ == "__main__":
    sys.exit(main())
