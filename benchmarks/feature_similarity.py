"""How much do the features of encoder and decoder change along a chain? Reuse takes them to be the same.

python benchmarks/feature_similarity.py -r CHECKPOINT                on the validation set of its config
python benchmarks/feature_similarity.py -r CHECKPOINT -i photos/     on low-resolution images
python benchmarks/feature_similarity.py --small                      the demo's network with random weights: seconds

After Li et al. 2023, Faster Diffusion, fig. 2. Encoder and decoder run at every step of the chain. The features are
each skip of the encoder, its bottleneck, and the output of each block of the decoder. The change between two steps is
|a - b|² / |a|², where |a|² is the mean over the chain, as for the key steps `auto:N`. The cosine of a and b is given
too. Encoder and decoder are the means over their features, a level is the mean over those of one size, and all are
means over the images, each with its own noise. Features are stored as sketches of 4096 numbers, so a change is exact
to 2 or 3 %.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: import from the repository, whatever the working directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.helpers.options import add_report, fill_defaults, need_matplotlib
from core.command_line import DEVICES, Parser, count
from core.errors import UserError, one_line_errors
from core.shipped import CHECKPOINT

FULL = {"images": 8, "steps": 50}
SMALL = {"images": 2, "steps": 10}


@one_line_errors()
def main() -> None:
    arguments = parse_arguments()
    need_matplotlib()
    from benchmarks.helpers.feature_similarity import answer  # after the flags are read: --help must not wait for torch

    answer(arguments)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("-r", "--checkpoint", help=CHECKPOINT)
    add(
        "-i",
        "--input",
        nargs="+",
        metavar="PATH",
        help="low-resolution image files, and folders of images of any depth",
    )
    add("-c", "--config", metavar="FILE", help="a config (default: the checkpoint's own)")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    add("--data", default="val", metavar="KEY", help="without -i, the images: a section of datasets (default: val)")
    add("--images", type=count, metavar="N", help="number of images (default: 8)")
    add("--steps", type=count, metavar="N", help="steps of the chain (default: 50)")
    add("--solver", default="ddim", metavar="NAME", help="ddpm, ddim or dpm++ (default: ddim)")
    add("--device", default="auto", help=DEVICES)
    add("--small", action="store_true", help="few images and steps; without -r, config/demo.yaml with random weights")
    add_report(parser, "feature_similarity")
    parser.set_defaults(batch=1)
    arguments = parser.parse_args()
    if arguments.checkpoint is None and (arguments.input or not arguments.small):
        raise UserError("give a checkpoint with -r, or --small without -i for random weights")
    if arguments.steps == 1:
        raise UserError("--steps 1: nothing changes in a chain of one step; give 2 or more")
    return fill_defaults(arguments, SMALL if arguments.small else FULL)


if __name__ == "__main__":
    main()
