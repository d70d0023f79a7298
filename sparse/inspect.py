"""Print the density of every convolution and linear weight in a checkpoint: python -m sparse.inspect FILE

Reads safetensors, packed or dense, and published .pth files (without running any code that they may hold).
"""

import argparse
import signal
import sys
from pathlib import Path

from sparse.errors import SparseError


def main(arguments: list[str] | None = None) -> int:
    """Print the table of the file named on the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sparse.inspect", description=__doc__.partition(":")[0])
    parser.add_argument("file", type=Path, help="a checkpoint: .safetensors, .pth or .pt")
    path = parser.parse_args(arguments).file
    from sparse.contents import format_table, read_tensors, tabulate  # import torch, for which --help need not wait

    try:
        rows = tabulate(read_tensors(path))
        if not rows:
            raise SparseError("holds no convolution or linear weight")
    except SparseError as error:
        print(f"error: {path}: {error}", file=sys.stderr)
        return 2
    print(format_table(rows))
    dense = 4 * sum(row.total for row in rows)
    print(f"file: {path.stat().st_size:,} bytes; these weights as dense float32: {dense:,} bytes")
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # after `| head`, it ends without a word
    sys.exit(main())
