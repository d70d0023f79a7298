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
