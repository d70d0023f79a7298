"""What density.py and tuning.py do with a command line that is read."""

import argparse

from benchmarks.helpers.comparison import Comparison
from benchmarks.helpers.options import fill_defaults, need_matplotlib

FULL = {"config": "config/faces_16_128_small.yaml", "images": 100}
SMALL = {"config": "config/demo.yaml", "images": 2, "steps": 8}


def ask(comparison: Comparison, arguments: argparse.Namespace) -> None:
    """Trains the variants of the command line, or joins reports, and tells what came out."""
    need_matplotlib()
    from benchmarks.helpers.equal_trainings import answer  # after the flags are read: --help must not wait for torch

    answer(comparison, fill_defaults(arguments, SMALL if arguments.small else FULL))
