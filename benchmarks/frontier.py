"""What does each way to sample cost a trained network, in quality and in time?

python benchmarks/frontier.py -r CHECKPOINT                            on the validation set of its config
python benchmarks/frontier.py -r CHECKPOINT --chains 'ddim50*,dpm++*'  chains whose names fit a pattern
python benchmarks/frontier.py --small                                  the demo's network with random weights: seconds
python benchmarks/frontier.py --merge A.json B.json                    joins reports of different chains

Every chain super-resolves the same images with the same noise. A chain is on the frontier unless another one is at
least as fast and better. Speed-up and time saved compare it with the same steps without reuse (encoder and decoder at
each of them), if that chain is measured too. The report and the pictures are written again after each chain. With
several GPUs, let each process measure a part of the chains (--device cuda:N, --chains, --json), and join the reports
with --merge.
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

FULL = {"images": 32, "batch": 8, "chains": "*"}
SMALL = {"images": 3, "batch": 1, "chains": "ddim10-none,ddim10-u5*,ddim10-auto5"}


@one_line_errors()
def main() -> None:
    arguments = parse_arguments()
    need_matplotlib()
    from benchmarks.helpers.frontier import answer  # after the flags are read: --help must not wait for torch

    answer(arguments)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("-r", "--checkpoint", help=CHECKPOINT)
    add("-c", "--config", metavar="FILE", help="a config (default: the checkpoint's own)")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    add("--data", default="val", metavar="KEY", help="the images: a section of datasets (default: val)")
    add("--images", type=count, metavar="N", help="use only the first N images (default: 32)")
    add("--batch", type=count, metavar="B", help="images in a batch (default: 8)")
    chains = (
        "patterns of names, as in 'ddim50*,ddpm2000-u10*', or a .yaml or .json file: {name: {key: value of sample}}"
    )
    add("--chains", metavar="NAMES", help=f"{chains} (default: all)")
    add("--device", default="auto", help=DEVICES)
    add("--small", action="store_true", help="few chains and images; without -r, config/demo.yaml with random weights")
    pictures = "where seconds against PSNR go as a picture, with one of sharpness beside it"
    add_report(parser, "frontier", pictures)
    add(
        "--save",
        metavar="FOLDER",
        help="save a picture NAME.png of each chain: LR, bicubic, SR and HR",
    )
    add("--merge", nargs="+", metavar="REPORT", help="measure nothing, and join reports of different chains")
    arguments = parser.parse_args()
    if arguments.merge and (arguments.checkpoint or arguments.small):
        raise UserError("--merge measures nothing: leave out -r and --small")
    if not (arguments.merge or arguments.checkpoint or arguments.small):
        raise UserError("give a checkpoint with -r, or --small for random weights")
    return fill_defaults(arguments, SMALL if arguments.small else FULL)


if __name__ == "__main__":
    main()
