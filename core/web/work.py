"""The photo that is being computed, whose end a stop of the server waits for: torch aborts where its threads still run
as Python ends."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import UserError


class Work:
    """One photo at a time, until a stop."""

    def __init__(self) -> None:
        self.lock, self.is_stopping = threading.Lock(), False

    @contextmanager
    def on_a_photo(self) -> Iterator[None]:
        """Around the work on each photo."""
        with self.lock:
            self.go_on()
            yield

    def go_on(self) -> None:
        """Called now and then during the work. Raises UserError once there was a stop."""
        if self.is_stopping:
            raise UserError("The server is stopping.")

    def stop(self) -> None:
        """Returns when nothing is computed any more."""
        self.is_stopping = True
        with self.lock:
            pass
