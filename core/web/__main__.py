"""Opens a web page that enlarges photos: drop one, compare it with bicubic, download the result.

python -m core.web                                    for the browser of this machine: http://127.0.0.1:7860
python -m core.web --host 0.0.0.0 --port 8080         for every machine that reaches this one; there is no password

It needs `pip install -r requirements-web.txt`. The page loads nothing from the internet and reports nothing to anyone.
Photos and results are deleted within two hours, and when the server stops.

Exit code: 2 if the page cannot be opened, and one line says why; otherwise, it runs until Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence

from core.command_line import DEVICES, Parser, count, wait_passively
from core.errors import one_line_errors
from core.web.limits import MOST_BYTES, MOST_PIXELS, Limits
from requirements import require_packages

LOCAL = ("127.0.0.1", "localhost", "::1")


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    require_packages(["gradio"], "requirements-web.txt")

    # Here, as torch and gradio take seconds to import, for which --help need not wait.
    from core.device import pick_device
    from core.web.enlarging import Enlarger
    from core.web.page import serve

    limits = Limits(arguments.most_bytes, arguments.most_pixels)
    if arguments.host not in LOCAL:
        print(f"note: whoever reaches {arguments.host} can use the page; it asks for no password", file=sys.stderr)
    serve(Enlarger(pick_device(arguments.device), limits), arguments.host, arguments.port)


def parser() -> Parser:
    parser = Parser(prog="python -m core.web", description=__doc__)
    add = parser.add_argument
    add("--host", default=LOCAL[0], help="address to listen on (default: 127.0.0.1, for this machine only)")
    add("--port", type=port, default=7860, metavar="N", help="port to listen on (default: 7860)")
    size = f"refuse larger files (default: {MOST_BYTES}, which is {MOST_BYTES // 10**6} MB)"
    add("--most-bytes", type=count, default=MOST_BYTES, metavar="N", help=size)
    size = f"refuse photos whose result would have more pixels (default: {MOST_PIXELS}, as 4000x4000)"
    add("--most-pixels", type=count, default=MOST_PIXELS, metavar="N", help=size)
    add("--device", default="auto", help=DEVICES)
    return parser


def port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port, 1 to 65535")
    return int(text)


if __name__ == "__main__":
    wait_passively()
    sys.exit(main())
