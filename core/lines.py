"""Lines of text for whoever reads stdout or stderr."""

import sys
from typing import TextIO


def write_line(line: str, file: TextIO | None = None) -> None:
    """Writes a line to `file`, or to stdout, in one piece.

    The processes of torchrun share one output, and do not buffer it. `print` would write the end of the line apart, so
    that two lines could run into each other.
    """
    file = sys.stdout if file is None else file
    file.write(f"{line}\n")
    file.flush()
