"""What the user can mend, said in one line."""

import sys
from contextlib import contextmanager

from data.errors import DataError
from model.errors import ModelError
from sparse.errors import SparseError


class UserError(Exception):
    """A config, a checkpoint or a command line is wrong: one line that says what, where, and how to mend it."""


USER_ERRORS = (UserError, DataError, ModelError, SparseError)


@contextmanager
def one_line_errors():
    """For `main`, as `@one_line_errors()`: the errors above become one line on stderr and exit code 2, Ctrl-C 130."""
    try:
        yield
    except USER_ERRORS as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
