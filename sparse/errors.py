"""The one error that this package raises for bad input."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from numbers import Integral, Real


class SparseError(Exception):
    """Bad input to the sparse package; the message is one line that says what is wrong and how to mend it."""


def shorten(items: Sequence[str], limit: int = 5) -> str:
    """The first items and how many more there are, in one line."""
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more} more" if more > 0 else "")


def nearest_name(name: object, known: Collection[str]) -> str:
    """', did you mean "..."?' for the known name nearest to `name`, whatever its case, or nothing."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(str(name).lower(), list(by_lower), n=1, cutoff=0.4)
    return f', did you mean "{by_lower[matches[0]]}"?' if matches else ""


def check_name(argument: str, name: object, known: Collection[str]) -> None:
    """Raise SparseError unless `name` is one of the `known` names of `argument`."""
    if name not in known:
        raise SparseError(f"{argument}={name!r} is not known{nearest_name(name, known)} (known: {', '.join(known)})")


def check_fraction(argument: str, value: float, zero_allowed: bool = True) -> float:
    """`value`. Raises SparseError unless it is a number in [0, 1], or in (0, 1]."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= 1 and (zero_allowed or value > 0)):
        raise SparseError(f"{argument}={value!r} must be {'from 0 to 1' if zero_allowed else 'above 0 and at most 1'}")
    return value


def check_count(argument: str, value: int, least: int) -> None:
    """Raise SparseError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise SparseError(f"{argument}={value!r} must be a whole number of at least {least}")
