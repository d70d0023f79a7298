"""Shows what a network is: its parts, parameters, active weights and operations, and the memory that it needs.

python -m core.summary config/faces_16_128.yaml            the network that a config describes
python -m core.summary faces                               a trained network: a checkpoint, or a name

It computes only shapes, which takes seconds for a network of any size. Operations are those of one image of the size
used in training. A multiplication and an addition count as two, and masked weights count like all others. Memory is an
estimate in float32: all tensors that a training keeps, and the most that a step, or a group of a chain, needs on top.
Libraries need more: on a CPU about 0.3 GB, and up to a third of the estimate. In bf16, as on a GPU, the part on top is
about half.

Exit code: 0, or 2, and one line says why.
"""

from collections.abc import Sequence

from core.command_line import Parser
from core.errors import one_line_errors
from core.shipped import CHECKPOINT


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    from core.summary.summarizing import (
        summarize,  # here, as torch takes a second to import, for which --help need not wait
    )

    print(summarize(arguments.network))


def parser() -> Parser:
    parser = Parser(prog="python -m core.summary", description=__doc__)
    parser.add_argument("network", metavar="CONFIG|CHECKPOINT", help=f"a config (.yaml, .json), or {CHECKPOINT}")
    return parser


if __name__ == "__main__":
    main()
