"""Tells what a network is: parts, parameters, active weights, operations, and the memory that it will take.

python -m core.summary config/faces_16_128.yaml            the network that a config describes
python -m core.summary faces                               one that is trained: a checkpoint, or a shipped network

It computes only shapes, in seconds, whatever the size of the network. Operations are those of one image as large as the
images of training. A multiplication and an addition are two; weights that are masked count as any others. Memory is an
estimate: that of all tensors in float32 that a training keeps, and the most that a step, or a group of a chain, has
besides. Libraries come on top: on a CPU about 0.3 GB, and up to a third of what is told. In bf16, as on a GPU, what a
step has besides takes about half.
Exit code: 0; or 2, and one line says why.
"""

import argparse
from collections.abc import Sequence

from core.command_line import Parser
from core.errors import one_line_errors
from core.shipped import CHECKPOINT


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    from core.summarizing import summarize  # here, as torch takes a second to import, for which --help need not wait

    print(summarize(arguments.network))


def parser() -> Parser:
    parser = Parser(
        prog="python -m core.summary", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", metavar="CONFIG|CHECKPOINT", help=f"a config (.yaml, .json), or {CHECKPOINT}")
    return parser


if __name__ == "__main__":
    main()
