"""What the commands share that read their options by argparse."""

import argparse

from core.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message):
        raise UserError(f"{message} ({self.prog} --help tells all options)")


def count(text):
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no whole number of 1 or more")
    return int(text)


def counts(text):
    """`4,8` -> (4, 8), in rising order."""
    return tuple(sorted(map(count, text.split(","))))


def counts_or_zeros(text):
    """`0,1,8` -> (0, 1, 8)."""
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text} is no list of whole numbers, as in 0,1,8")
    return tuple(map(int, text.split(",")))
