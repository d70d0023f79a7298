"""What the command lines of the benchmarks share. It imports nothing that --help would have to wait for."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from core.command_line import Parser, file_ending_in
from requirements import require_packages


def add_report(parser: Parser, name: str, picture: str | None = "where the picture goes") -> None:
    """The flags of the report of the benchmark `name`, and of its picture, if it draws one."""
    place = f"experiments/benchmarks/{name}"
    add, json, png = parser.add_argument, file_ending_in(".json"), file_ending_in(".png")
    add("--json", type=json, default=f"{place}.json", metavar="FILE", help="where the report goes, as FILE.json")
    if picture:
        add("--plot", type=png, default=f"{place}.png", metavar="FILE", help=f"{picture}, as FILE.png")


def fill_defaults(arguments: Namespace, defaults: Mapping[str, Any]) -> Namespace:
    """The arguments, with these values where none were given."""
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def need_matplotlib() -> None:
    """Ends the command where matplotlib is missing: better before hours of measurement than after them."""
    require_packages(["matplotlib"], "benchmarks/requirements.txt")
