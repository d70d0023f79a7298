"""What the fuzzers share: how many cases, how values and bytes are damaged, and what a reader may answer."""

import os
import resource
import signal
import time
from contextlib import contextmanager

from core.errors import is_of_user

LONG = bool(os.environ.get("SMFDM_LONG_TESTS"))  # as `sh run.sh test-long` sets it
LONGEST_ANSWER = 10  # seconds, on a busy machine: what takes an honest reader a few milliseconds
MOST_MEMORY = 1 << 30  # bytes that the largest of all cases may add to the process
LONGEST_LINE = 2000  # characters

VALUES = [
    None, True, False, 0, -1, 1, 2, 3, 7, 1000, 10**9, 10**18, 10**30, -(10**9), 0.5, -0.5, 1e-300, 1e300, 1e9,
    float("inf"), float("nan"), "", "x", "1e9", "1e999", "nan", "\0", "../x", "/x", "é" * 300, "x" * 100_000, "\ud800",
    [], {}, [[]], [10**9] * 3, [1] * 1000, [1, [2, [3]]], {"a": 1}, {"": {}}, {str(n): n for n in range(1000)},
]  # fmt: skip


def count(few, many):
    """The number of cases: few in every test run, many in a long one."""
    return many if LONG else few


def nested(depth, opening="[", closing="]"):
    return opening * depth + closing * depth


def damaged_bytes(content, rng):
    """The bytes with one piece cut off, changed, repeated, or put in."""
    content = bytearray(content)
    at = rng.randrange(len(content))
    near_start = rng.random() < 0.5
    at = rng.randrange(min(len(content), 2000)) if near_start else at
    size = rng.choice((1, 1, 2, 8, 64, 1000))
    kind = rng.choice(("cut", "flip", "set", "zero", "repeat", "insert", "remove"))
    if kind == "cut":
        del content[at:]
    elif kind == "flip":
        content[at] ^= 1 << rng.randrange(8)
    elif kind == "set":
        content[at : at + size] = rng.randbytes(min(size, len(content) - at))
    elif kind == "zero":
        content[at : at + size] = bytes(min(size, len(content) - at))
    elif kind == "repeat":
        content[at:at] = content[at : at + size]
    elif kind == "insert":
        content[at:at] = rng.randbytes(size)
    else:
        del content[at : at + size]
    return bytes(content)


def damaged_value(value, rng):
    """Nested dicts and lists with one value, anywhere in them, replaced, removed, doubled or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if kind < 0.15:
            return {(key + "x" if name == key else name): item for name, item in value.items()}
        return {name: damaged_value(item, rng) if name == key else item for name, item in value.items()}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        if rng.random() < 0.3:
            return value * rng.choice((0, 2, 1000))
        return [damaged_value(item, rng) if n == at else item for n, item in enumerate(value)]
    return rng.choice(VALUES)


class TookTooLong(Exception):
    pass


@contextmanager
def answers(case):
    """Inside, a reader may succeed, or raise what the user can mend, in one short line, and soon; `case` is told."""

    def stop(*_):
        raise TookTooLong

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_ANSWER)
    began = time.perf_counter()
    try:
        yield
    except TookTooLong:
        raise AssertionError(f"{case}: no answer after {LONGEST_ANSWER} s") from None
    except Exception as error:
        assert is_of_user(error), f"{case}: {type(error).__name__}: {error}"
        line = str(error)
        assert "\n" not in line and 0 < len(line) < LONGEST_LINE, f"{case}: no short line: {line[:300]!r}"
    finally:
        signal.alarm(0)
    assert time.perf_counter() - began < LONGEST_ANSWER, case


@contextmanager
def bounded_memory():
    """Inside, the process grows by MOST_MEMORY at most."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MOST_MEMORY, f"{grown:,} bytes"
