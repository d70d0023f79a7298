"""What the command lines of the benchmarks share. It imports nothing that --help would have to wait for."""

from argparse import Namespace
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from core.errors import UserError


def fill_defaults(arguments: Namespace, defaults: Mapping[str, Any]) -> Namespace:
    """The arguments, with these values where none were given."""
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def need_matplotlib() -> None:
    """Raises UserError where matplotlib is missing: better before hours of measurement than after them."""
    if find_spec("matplotlib") is None:
        raise UserError("this benchmark draws with matplotlib: pip install -r benchmarks/requirements.txt")
