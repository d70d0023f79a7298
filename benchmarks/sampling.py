"""How fast is sampling, compared with plain sampling? One table, all measured in one run, and a JSON file.

python benchmarks/sampling.py                            the face network with random weights
python benchmarks/sampling.py --network CHECKPOINT       your own network
python benchmarks/sampling.py --small                    the demo's network, short chains: seconds on a CPU

Plain is the same chain as the published code computes it: eager, in float32, without encoder-state reuse. On a CPU
only a short chain is measured, because the others take hours.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: import from the repository, whatever the working directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.helpers.options import add_report, fill_defaults
from core.command_line import DEVICES, Parser, count, counts
from core.errors import one_line_errors

FULL = {"network": "config/faces_16_128.yaml", "batches": (4, 8, 16, 32), "repeats": 3}
SMALL = {"network": "config/demo.yaml", "batches": (2, 3), "repeats": 2}


@one_line_errors()
def main() -> None:
    arguments = parse_arguments()
    from benchmarks.helpers.sampling import answer  # after the flags are read: --help must not wait for torch

    answer(arguments)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--network", "--config", metavar="FILE", help="a checkpoint or a config (default: config/faces_16_128.yaml)")
    add("--device", default="auto", help=DEVICES)
    add("--batches", type=counts, metavar="N,N,...", help="batch sizes to try (default: 4,8,16,32)")
    add("--repeats", type=count, metavar="N", help="number of measurements; the median counts (default: 3)")
    add("--small", action="store_true", help="config/demo.yaml, short chains, small batches")
    add_report(parser, "sampling", picture=None)
    add("--started", type=float, help=argparse.SUPPRESS)  # when, for a process that `first_images` starts
    add("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    return fill_defaults(arguments, SMALL if arguments.small else FULL)


if __name__ == "__main__":
    main()
