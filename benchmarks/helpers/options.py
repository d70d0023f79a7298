"""What the command lines of the benchmarks share. It imports nothing that --help would have to wait for."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from requirements import require_packages


def fill_defaults(arguments: Namespace, defaults: Mapping[str, Any]) -> Namespace:
    """The arguments, with these values where none were given."""
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def need_matplotlib() -> None:
    """Ends the command where matplotlib is missing: better before hours of measurement than after them."""
    require_packages(["matplotlib"], "benchmarks/requirements.txt")
