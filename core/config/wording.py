"""How messages show keys and values: each in one short line, whatever it is."""

from typing import Any


def show(value: Any) -> str:
    """A value in one short line."""
    try:
        line = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        line = "a value with a number of thousands of digits"
    return cut(" ".join(line.split()))


def readable(name: Any) -> str:
    """The name of a key that may be anything, in one short line."""
    return cut(name) if isinstance(name, str) and name.isprintable() else show(name)


def as_flag(key: str) -> str:
    """The flag of infer.py for a key of the section `sample`: key_steps -> --key-steps."""
    return f"--{key.replace('_', '-')}"


def cut(line: str, length: int = 60) -> str:
    return line if len(line) <= length else line[: length - 3] + "..."


def is_utf8(text: str) -> bool:
    """Whether a text, such as a path, came from UTF-8: Python has surrogates for other bytes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
