"""How fast are images read? Images per second that reach the device, with decoding, augmentation and batching.

python benchmarks/data.py                                  crops of photographs, as folders and as an LMDB
python benchmarks/data.py --dataroot dataset/FFHQ_16_128   your own images
python benchmarks/data.py -c config/photos_x4.yaml         as this config trains: crops, degradation, cache
python benchmarks/data.py --small                          few images: seconds on a CPU

The batches are not used for anything, so this is the fastest that training can be fed.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: import from the repository, whatever the working directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.helpers.options import add_report, fill_defaults
from core.command_line import Parser, count, counts_or_zeros
from core.errors import one_line_errors

FULL = {"images": 500, "batch": 32, "batches": 40, "repeats": 5, "workers": (0, 1, 2, 4, 8)}
SMALL = {"images": 12, "batch": 4, "batches": 3, "repeats": 2, "workers": (0, 1)}


@one_line_errors()
def main() -> None:
    arguments = parse_arguments()
    from benchmarks.helpers.data import answer  # after the flags are read: --help must not wait for torch

    answer(arguments)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--dataroot", help="a folder or an LMDB of prepare_data.py (default: both, made from photographs)")
    add("-c", "--config", help="a config; its datasets.train is read as in training")
    add(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override a key of the config"
    )
    add("--size", default="16,128", help="low and high resolution (default: 16,128)")
    add("--images", type=count, metavar="N", help="synthetic photographs to make (default: 500)")
    add("--batch", type=count, help="images in a batch (default: 32)")
    add("--batches", type=count, metavar="N", help="batches per measurement (default: 40)")
    add("--repeats", type=count, metavar="N", help="number of measurements; the median counts (default: 5)")
    add(
        "--workers",
        type=counts_or_zeros,
        metavar="N,N,...",
        help="numbers of reading processes to try (default: 0,1,2,4,8)",
    )
    add("--device", default="auto", help="device that receives the batches: auto, cpu or cuda (default: auto)")
    add("--small", action="store_true", help="few images, batches and processes")
    add_report(parser, "data", picture=None)
    arguments = parser.parse_args()
    if arguments.config and arguments.dataroot:
        parser.error("--config and --dataroot: give one of them")
    return fill_defaults(arguments, SMALL if arguments.small else FULL)


if __name__ == "__main__":
    main()
