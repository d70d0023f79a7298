"""Print the density of every convolution and linear weight in a checkpoint: python -m sparse.inspect CHECKPOINT

Reads safetensors, packed or dense, and published .pth files. No code in them is run.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from requirements import require_packages
from sparse.checkpoint_files import find_network_file, is_file, possible_files
from sparse.errors import SparseError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} ({self.prog} --help lists all options)\n")


def parse_checkpoint(arguments: list[str] | None) -> Path:
    """The checkpoint that the command line names. An empty text is none: it would stand for the current folder."""
    parser = Parser(prog="python -m sparse.inspect", description=__doc__.partition(":")[0])
    where = "a .safetensors, .pth or .pt file, the PREFIX of PREFIX_gen.*, or a folder (takes its latest)"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=where)
    named = parser.parse_args(arguments).checkpoint
    if not named:
        parser.error("argument CHECKPOINT: is empty, as a variable that is not set gives it")
    return Path(named)


def main(arguments: list[str] | None = None) -> int:
    """Print the table of the file named on the command line; return the exit code."""
    named = parse_checkpoint(arguments)
    require_packages()
    from sparse.contents import format_table, read_tensors, tabulate  # import torch, for which --help need not wait

    path = named
    try:
        if not is_file(named):
            path = find_network_file(named) or next(filter(os.path.lexists, possible_files(named)), named)
        rows = tabulate(read_tensors(path))
        if not rows:
            raise SparseError("holds no convolution or linear weight")
    except SparseError as error:
        print(f"error: {str(path) + ': ' if str(path) not in str(error) else ''}{error}", file=sys.stderr)
        return 2
    if path != named:
        print(path)
    print(format_table(rows))
    dense = 4 * sum(row.total for row in rows)
    print(f"file: {path.stat().st_size:,} bytes; these weights as dense float32: {dense:,} bytes")
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # after `| head`, it ends without a word
    sys.exit(main())
