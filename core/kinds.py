"""The types that a key of a config may have."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """A type of value: what it allows, in words, and `read(value)`, which converts or raises ValueError."""

    allowed: str
    read: Callable[[Any], Any]


def number(interval):
    """A float in an interval such as "(0, 1]"; "1e-4", which YAML takes for text, is a number too."""
    contains, words = parse_interval(interval)

    def read(value):
        value = float(parse_number(value))
        return accept(value, contains(value))

    return Kind("a number" + words, read)


def whole(interval):
    """An int in an interval such as "[1, inf)"; 3e3 is one too."""
    contains, words = parse_interval(interval)

    def read(value):
        value = parse_number(value)
        return accept(int(value), value == int(value) and contains(value))

    return Kind("a whole number" + words, read)


def exactly(n):
    """The int n and no other."""
    return Kind(str(n), whole(f"[{n}, {n}]").read)


def choice(*names, **aliases):
    """One of the names, in any case; an alias, a published spelling, is read as the name it stands for."""
    known = {name.lower(): name for name in names} | aliases

    def read(value):
        accept(value, isinstance(value, str) and value.lower() in known)
        return known[value.lower()]

    return Kind(" | ".join(names), read)


def list_of(kind, least=0, most=math.inf):
    """A list of `least` to `most` values of one kind."""

    def read(value):
        accept(value, isinstance(value, list | tuple) and least <= len(value) <= most)
        return [kind.read(item) for item in value]

    length = f" of {least}" if least == most else " with at least one value" if least else ""
    return Kind(f"a list{length}, each {kind.allowed}", read)


def mapping(kind):
    """Any texts, each with a value of one kind."""

    def read(value):
        accept(value, isinstance(value, dict) and all(isinstance(name, str) for name in value))
        return {name: kind.read(item) for name, item in value.items()}

    return Kind(f"a mapping from text to {kind.allowed}", read)


def either(one, other):
    """What the first kind does not allow, the second may."""

    def read(value):
        try:
            return one.read(value)
        except ValueError:
            return other.read(value)

    return Kind(f"{one.allowed}, or {other.allowed}", read)


def optional(kind):
    """The kind, or null."""
    return either(kind, Kind("null", lambda value: accept(value, value is None)))


def of_type(cls, words, fits=lambda value: True):
    """A value of a Python type, as it is, for which `fits(value)` is true."""
    return Kind(words, lambda value: accept(value, isinstance(value, cls) and fits(value)))


def accept(value, fits):
    if not fits:
        raise ValueError
    return value


def parse_number(value):
    """The finite number that a value is, or spells. Bounded, as Python's integers may be too large for a float."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value):
        value = float(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return accept(value, is_number and abs(value) <= 1e300)


def parse_interval(notation):
    """ "(0, 1]" -> (whether it contains x, in words)."""
    low, high = (float(end) for end in notation[1:-1].split(","))
    above_low = low.__lt__ if notation[0] == "(" else low.__le__
    below_high = high.__gt__ if notation[-1] == ")" else high.__ge__
    words = f" in {notation}" if high < math.inf else f" above {low:g}" if notation[0] == "(" else f", {low:g} or more"
    return (lambda x: above_low(float(x)) and below_high(float(x))), words


flag = of_type(bool, "true | false")
true = of_type(bool, "true", bool)
text = of_type(str, "text", str.strip)
text_or_null = Kind("text, or null", lambda value: None if value in (None, "") else text.read(value))
folder_name = of_type(str, "text that can name a folder", re.compile(r"(?!\s|\.{1,2}$)[^/\\\0\n]+").fullmatch)
anything = of_type(object, "any value")
count = whole("[1, inf)")
count_or_zero = whole("[0, inf)")
seed = whole("[0, 4294967295]")
