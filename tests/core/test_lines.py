"""Lines of several processes that share one output, as those of torchrun do, which does not buffer it."""

import io
import sys

import pytest

from core.errors import say_once
from core.inference.file_progress import FileProgress
from core.inference.input_files import LeftOut
from core.lines import write_line
from core.log import start_logging, warn


class Pieces(io.RawIOBase):
    """Keeps what each single write brings, which a pipe would take as a whole."""

    def __init__(self):
        self.written = []

    def writable(self):
        return True

    def write(self, piece):
        self.written.append(bytes(piece).decode())
        return len(piece)


def written(say):
    """What a function writes to stdout and stderr, as `python -u` writes it."""
    pieces = Pieces()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("stdout", "stderr"):
            patch.setattr(sys, name, io.TextIOWrapper(pieces, write_through=True))
        say("a line")
    return [piece for piece in pieces.written if piece]


def test_print_writes_two_pieces():
    """...which is why it does not serve."""
    assert written(print) == ["a line", "\n"]


@pytest.mark.parametrize(
    "say",
    [
        write_line,
        lambda line: write_line(line, sys.stderr),
        lambda line: FileProgress(2, process=1).succeed(line),
        lambda line: FileProgress(2, process=1).warn(line),
        lambda line: LeftOut(aloud=True).leave_out(line),
        warn,
        say_once,
    ],
)
def test_a_line_is_one_piece(monkeypatch, say):
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    [piece] = written(say)
    assert piece.endswith("a line\n") and piece.count("\n") == 1


def test_a_line_of_the_log_is_one_piece(tmp_path):
    assert written(start_logging(tmp_path, "test").info) == ["a line\n"]
