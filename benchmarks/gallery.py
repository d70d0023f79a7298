"""What do the networks make of photographs? The pictures of the README: inputs, bicubic, results, truths, side by side.

python benchmarks/gallery.py                    docs/figures/face.png and photo.jpg
python benchmarks/gallery.py --folder /tmp      look first

The photographs come with scikit-image: an astronaut's portrait (NASA), a cat (CC0), a cup of coffee (CC0). No network
in checkpoints/ saw them in its training.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: import from the repository, whatever the working directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.helpers.options import need_matplotlib
from core.command_line import Parser
from core.errors import one_line_errors


@one_line_errors()
def main() -> None:
    arguments = parse_arguments()
    need_matplotlib()
    from benchmarks.helpers.gallery import draw  # after the flags are read: --help must not wait for torch

    draw(Path(arguments.folder), arguments.device)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--folder", default="docs/figures", help="where the pictures go (default: docs/figures)")
    add("--device", default="auto", help="device that computes: auto, cpu or cuda (default: auto)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
