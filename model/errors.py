"""The error of this package, who raises it, and the hint it gives for a mistyped name."""

from collections.abc import Iterable
from difflib import get_close_matches


class ModelError(Exception):
    """Input that the model cannot work with: one line that says what is wrong and how to mend it."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ModelError(message)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean "..."?` for the known name nearest to `name`, or nothing where none is near."""
    match = get_close_matches(name.lower(), list(known), n=1)
    return f'; did you mean "{match[0]}"?' if match else ""
