"""The types that the value of a key may have: what each allows, in words, and how it reads what a file gives."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

LONGEST_NUMBER = 100  # characters; what is longer is no number that anybody means, and slow to read


class ValueType(NamedTuple):
    """A type of value: what it allows, in words, and `read(value)`, which converts or raises ValueError."""

    allowed: str
    read: Callable[[Any], Any]


def number(interval: str) -> ValueType:
    """A float in an interval such as "(0, 1]"; "1e-4", which YAML takes for text, is a number too."""
    contains, words = parse_interval(interval)

    def read(value: Any) -> float:
        value = float(parse_number(value))
        return accept(value, contains(value))

    return ValueType("a number" + words, read)


def whole(interval: str) -> ValueType:
    """An int in an interval such as "[1, inf)"; 3e3 is one too."""
    contains, words = parse_interval(interval)

    def read(value: Any) -> int:
        value = parse_number(value)
        return accept(int(value), value == int(value) and contains(value))

    return ValueType("a whole number" + words, read)


def exactly(n: int) -> ValueType:
    """The int n and no other."""
    return ValueType(str(n), whole(f"[{n}, {n}]").read)


def choice(*names: str, **aliases: str) -> ValueType:
    """One of the names, in any case; an alias, a published spelling, is read as the name it stands for."""
    known = {name.lower(): name for name in names} | aliases

    def read(value: Any) -> str:
        accept(value, isinstance(value, str) and value.lower() in known)
        return known[value.lower()]

    return ValueType(" | ".join(names), read)


def list_of(item: ValueType, least: int = 0, most: float = math.inf) -> ValueType:
    """A list of `least` to `most` values of one type."""

    def read(value: Any) -> list[Any]:
        accept(value, isinstance(value, list | tuple) and least <= len(value) <= most)
        return [item.read(each) for each in value]

    length = f" of {least}" if least == most else f" of {least} to {most:g} values" if most < math.inf else ""
    return ValueType(f"a list{length}, each {item.allowed}", read)


def limits(item: ValueType) -> ValueType:
    """Two values of one type, the lower first."""

    def read(value: Any) -> list[Any]:
        low, high = list_of(item, 2, 2).read(value)
        return accept([low, high], low <= high)

    return ValueType(f"a list of 2, the lower first, each {item.allowed}", read)


def tuple_of(*items: ValueType) -> ValueType:
    """A list with a value of each type, in their order."""

    def read(value: Any) -> list[Any]:
        accept(value, isinstance(value, list | tuple) and len(value) == len(items))
        return [item.read(each) for item, each in zip(items, value, strict=True)]

    return ValueType(f"a list of {len(items)}: {', '.join(item.allowed for item in items)}", read)


def mapping(item: ValueType) -> ValueType:
    """Any texts, each with a value of one type."""

    def read(value: Any) -> dict[str, Any]:
        accept(value, isinstance(value, dict))
        return {text.read(name): item.read(each) for name, each in value.items()}

    return ValueType(f"a mapping from text to {item.allowed}", read)


def either(one: ValueType, other: ValueType) -> ValueType:
    """What the first type does not allow, the second may."""

    def read(value: Any) -> Any:
        try:
            return one.read(value)
        except ValueError:
            return other.read(value)

    return ValueType(f"{one.allowed}, or {other.allowed}", read)


def optional(value_type: ValueType) -> ValueType:
    """The type, or null."""
    return either(value_type, ValueType("null", lambda value: accept(value, value is None)))


def of_class(cls: type, words: str, fits: Callable[[Any], Any] = lambda value: True) -> ValueType:
    """A value of a Python class, as it is, for which `fits(value)` is true."""
    return ValueType(words, lambda value: accept(value, isinstance(value, cls) and fits(value)))


def accept(value: T, fits: Any) -> T:
    if not fits:
        raise ValueError
    return value


def parse_number(value: Any) -> int | float:
    """The finite number that a value is, or spells. Bounded, as Python's integers may be too large for a float."""
    if isinstance(value, str):
        accept(value, len(value) <= LONGEST_NUMBER)
        value = float(accept(value, re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value)))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return accept(value, is_number and abs(value) <= 1e300)


def parse_interval(notation: str) -> tuple[Callable[[float], bool], str]:
    """ "(0, 1]" -> (whether it contains x, in words)."""
    low, high = (float(end) for end in notation[1:-1].split(","))
    above_low = low.__lt__ if notation[0] == "(" else low.__le__
    below_high = high.__gt__ if notation[-1] == ")" else high.__ge__
    words = f" in {notation}" if high < math.inf else f" above {low:g}" if notation[0] == "(" else f", {low:g} or more"
    return (lambda x: above_low(float(x)) and below_high(float(x))), words


def is_text(value: str) -> bool:
    """Whether a text says something and can be written: in UTF-8, and to the system, which ends names at a null."""
    return bool(value.strip()) and "\0" not in value and not re.search("[\ud800-\udfff]", value)


def is_line(value: str) -> bool:
    """Whether a text is one line that any terminal can show."""
    return is_text(value) and value.isprintable() and len(value) <= LONGEST_LINE


def is_folder_name(value: str) -> bool:
    return is_text(value) and bool(FOLDER_NAME.fullmatch(value)) and len(value.encode()) <= LONGEST_FOLDER_NAME


def is_inner_path(value: str) -> bool:
    """Whether a path stays inside the folder that it is relative to."""
    parts = [part for part in value.split("/") if part not in ("", ".")]
    return is_text(value) and not value.startswith("/") and all(map(is_folder_name, parts))


FOLDER_NAME = re.compile(r"(?!\s|\.{1,2}$)[^/\\\n]+")
LONGEST_LINE = 300  # characters
LONGEST_FOLDER_NAME = 200  # bytes; file systems allow 255, and names of files begin with it

flag = of_class(bool, "true | false")
true = of_class(bool, "true", bool)
text = of_class(str, "text", is_text)
line = of_class(str, f"text of one line, {LONGEST_LINE} characters at most", is_line)
text_or_null = ValueType("text, or null", lambda value: None if value in (None, "") else text.read(value))
folder_name = of_class(str, "text that can name a folder", is_folder_name)
inner_path = of_class(str, "a path inside the experiment's folder", is_inner_path)
anything = of_class(object, "any value")
count = whole("[1, inf)")
count_or_zero = whole("[0, inf)")
seed = whole("[0, 4294967295]")
