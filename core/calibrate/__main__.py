"""Measures how the state of a network's encoder changes along a denoising chain, and saves that with the checkpoint.

python -m core.calibrate -r CHECKPOINT                                    on the training images of its config
python -m core.calibrate -r CHECKPOINT -i photos/ more/a.png              on low-resolution images like yours
python -m core.calibrate -r PREFIX_gen.pth -i photos/ -o NEW_gen.safetensors    of a published checkpoint

Without -o, the measurement goes into the checkpoint itself. A published one, or one that comes with the project, needs
-o.

Then `infer.py --key-steps auto:5`, or `sample.key_steps: auto:5` in a config, runs the encoder at the five steps that
fit the network best: the other steps reuse states that are as close as possible to their own. This works for chains of
any solver and length.

It takes about as long as super-resolving the same number of images in the same number of steps. The weights do not
change. PREFIX_encoder_change.png shows the result: rows and columns are timesteps, the first at the top left. The
lighter a point, the further apart the two states. After further training, measure again.

Exit code: 0, or 2 if no checkpoint was written, and one line says why.
"""

import sys
from collections.abc import Sequence

from core.command_line import DEVICES, Parser, add_sample_flags, count
from core.errors import one_line_errors
from core.shipped import CHECKPOINT

SETTINGS = ("solver", "consistency", "seed", "precision")


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    from core.calibrate.calibration import (
        calibrate,  # here, as torch takes a second to import, for which --help need not wait
    )

    calibrate(arguments)


def parser() -> Parser:
    parser = Parser(prog="python -m core.calibrate", description=__doc__)
    add = parser.add_argument
    add("-r", "--checkpoint", required=True, help=CHECKPOINT)
    add(
        "-i",
        "--input",
        nargs="+",
        metavar="PATH",
        help="low-resolution image files, and folders of images of any depth",
    )
    add(
        "-o",
        "--output",
        metavar="FILE",
        help="a .safetensors file to write (default: the checkpoint itself, if it is your own)",
    )
    add(
        "--images",
        type=count,
        default=8,
        metavar="N",
        help="how many images to use, spread evenly over all (default: 8)",
    )
    add("--timesteps", type=count, default=100, metavar="N", help="steps of the chain; each is measured (default: 100)")
    add("--device", default="auto", help=DEVICES)
    sampling = parser.add_argument_group("the chain (other defaults: the `sample` section of the checkpoint's config)")
    add_sample_flags(sampling, SETTINGS, solver="ddim")  # good for chains of all solvers
    return parser


if __name__ == "__main__":
    sys.exit(main())
