"""Shows validations and scores as one HTML page: numbers, differences, and every image beside the truth.

python -m core.report experiments/faces_16_128                  one run
python -m core.report experiments/A experiments/B -o ab.html    several side by side, with the differences to the first
python -m core.report A.json B.json --labels ours,theirs        files of core.score --json

A run is the folder of an experiment, a folder of results, or a JSON file. Runs are compared on the images that all of
them have, matched by the name of the true image. The page needs no network and no other file.

Exit code: 0, or 2 if nothing was written, and one line says why.
"""

import sys
from collections.abc import Sequence

from core.command_line import Parser, file_ending_in
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
    parser = Parser(prog="python -m core.report", description=__doc__)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="an experiment, its results, or a JSON file")
    page = file_ending_in(".html")
    add("-o", "--output", type=page, default="report.html", metavar="FILE", help="the page (default: report.html)")
    add("--labels", metavar="A,B", help="names of the runs on the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
