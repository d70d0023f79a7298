"""Where did the active weights go? The density of every layer over the training of a sparse run.

python benchmarks/layer_density.py experiments/NAME                  what the run wrote in its logs
python benchmarks/layer_density.py experiments/NAME -r CHECKPOINT    with the sizes of the layers of this checkpoint
python benchmarks/layer_density.py --join A.json B.json --json OUT.json    joins runs that continue each other

A run writes the densities after every mask update to logs/density.csv. The checkpoint (the latest of the run, unless
-r names another) says how many weights each layer has. From both follow the density of a part of the network, and its
share of all active weights. Without a checkpoint, the density of a part is the mean over its layers. When runs are
joined, the steps of a run count from the checkpoint of the run before.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: import from the repository, whatever the working directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.helpers.options import add_report, need_matplotlib
from core.command_line import Parser
from core.errors import one_line_errors


@one_line_errors()
def main() -> None:
    arguments = parse_arguments()
    need_matplotlib()
    from benchmarks.helpers.layer_density import answer  # after the flags are read: --help must not wait for torch

    answer(arguments)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("run", nargs="?", metavar="experiments/NAME", help="folder of a run, or of its logs")
    add("-r", "--checkpoint", help="a file, the PREFIX of PREFIX_gen.*, or a folder (default: the run's latest)")
    add("--join", nargs="+", metavar="FILE", help="reports of runs that continue each other")
    add_report(parser, "layer_density")
    arguments = parser.parse_args()
    if bool(arguments.run) == bool(arguments.join):
        parser.error("give the folder of a run, experiments/NAME, or --join reports")
    if arguments.join and arguments.checkpoint:
        parser.error("-r goes with the folder of a run: the reports of --join have their sizes")
    return arguments


if __name__ == "__main__":
    main()
