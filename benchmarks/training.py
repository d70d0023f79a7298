"""How fast is training, compared with plain training? One table, all measured in one run, and a JSON file.

python benchmarks/training.py                                      the face network, batch 32
python benchmarks/training.py --small                              the demo's network: seconds on a CPU
torchrun --standalone --nproc_per_node 4 benchmarks/training.py    on four GPUs, also against each GPU by itself

The images are synthetic, and reading is not measured: `benchmarks/data.py` measures that.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: import from the repository, whatever the working directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.helpers.options import add_report, fill_defaults
from core.command_line import DEVICES, Parser, count
from core.errors import one_line_errors

FULL = {"config": "config/faces_16_128.yaml", "batch": 32, "steps": 20, "repeats": 5}
SMALL = {"config": "config/demo.yaml", "batch": 2, "steps": 1, "repeats": 3}


@one_line_errors()
def main() -> None:
    arguments = parse_arguments()
    from benchmarks.helpers.training import answer  # after the flags are read: --help must not wait for torch

    answer(arguments)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(several_processes=True, description=__doc__)
    add = parser.add_argument
    add("--config", help="config of the network and the training (default: config/faces_16_128.yaml)")
    add("--device", default="auto", help=DEVICES)
    add("--batch", type=count, help="images in a step, per process (default: 32)")
    add("--steps", type=count, metavar="N", help="steps per measurement (default: 20)")
    add("--repeats", type=count, metavar="N", help="number of measurements; the median counts (default: 5)")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    add("--small", action="store_true", help="config/demo.yaml, few steps of 2 images")
    add_report(parser, "training", picture=None)
    arguments = parser.parse_args()
    return fill_defaults(arguments, SMALL if arguments.small else FULL)


if __name__ == "__main__":
    main()
