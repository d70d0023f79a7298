"""Takes the fixed pattern out of the images of a network that enlarges by sub-pixels, and writes the network anew.

python -m core.fixed_pattern -r CHECKPOINT --photos FOLDER -o FILE.safetensors

Such a network (`lr_encoder.sub_pixel: n` in its config, n above 1) adds nearly the same faint pattern, with a period of
n pixels, to all its images, most of all after adversarial training. The command measures it as the mean over small
versions of your photographs, made as in the training, as the network super-resolves them, and changes the 3·n² biases
of the layer that makes the sub-pixels (lr_encoder.tail) so that less of the pattern is left and the images change
little else. No other weight changes, so that the network is as fast and its file as large as before.

Use photographs like those of the training. Values are stored in 8 bits, as core.export stores them: that changes
nothing in a file of 8 bits.

Exit code: 0, or 2 if no file was written, and one line says why.
"""

import sys
from collections.abc import Sequence

from core.command_line import DEVICES, Parser, count
from core.errors import one_line_errors
from core.shipped import CHECKPOINT


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    from core.fixed_pattern.removal import remove_pattern  # here, as torch takes a second to import

    remove_pattern(arguments)


def parser() -> Parser:
    parser = Parser(prog="python -m core.fixed_pattern", description=__doc__)
    add = parser.add_argument
    add("-r", "--checkpoint", required=True, help=CHECKPOINT)
    add("--photos", required=True, metavar="FOLDER", help="photographs, in a folder of any depth")
    add("-o", "--output", required=True, metavar="FILE", help="a .safetensors file to write")
    add(
        "--images",
        type=count,
        default=48,
        metavar="N",
        help="how many photographs to use, spread evenly over all (default: 48)",
    )
    add("--device", default="auto", help=DEVICES)
    return parser


if __name__ == "__main__":
    sys.exit(main())
