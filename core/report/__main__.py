"""Shows validations and scores as one HTML page: numbers, differences, and every image beside the truth.

python -m core.report experiments/faces_16_128                  one run
python -m core.report experiments/A experiments/B -o ab.html    several side by side, with differences to the first
python -m core.report A.json B.json --labels ours,theirs        what core.score --json wrote

A run is an experiment's folder, a folder of results, or the JSON file of one. Runs are compared on the images that they
have in common, told by the name of the true image. The page needs no network and no file beside it.
Exit code: 0; or 2, one line says why, and nothing was written.
"""

import argparse
import sys
from collections.abc import Sequence

from core.command_line import Parser
from core.errors import UserError, one_line_errors


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    labels = arguments.labels.split(",") if arguments.labels else []
    if labels and len(labels) != len(arguments.runs):
        raise UserError(f"--labels {arguments.labels}: {len(labels)} names for {len(arguments.runs)} runs")

    # Here, as Pillow, NumPy and Jinja take a moment to import, for which --help need not wait.
    from core.report.page import write_page
    from core.report.runs import read_runs

    write_page(read_runs(arguments.runs, labels), arguments.output)
    print(f"written to {arguments.output}")


def parser() -> Parser:
    parser = Parser(
        prog="python -m core.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="an experiment, its results, or a JSON file")
    add("-o", "--output", default="report.html", metavar="FILE", help="the page (default: report.html)")
    add("--labels", metavar="A,B", help="what the runs are called on the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
