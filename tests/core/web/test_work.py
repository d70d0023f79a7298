"""A stop waits for the photo that is being computed, which ends at its next step."""

import threading
import time

import pytest

from core.errors import UserError
from core.web.work import Work


def test_a_stop_ends_the_work_and_waits_for_it():
    work, begun, events = Work(), threading.Event(), []

    def compute():
        with pytest.raises(UserError, match="stopping"), work.on_a_photo():
            begun.set()
            while True:
                time.sleep(0.01)
                try:
                    work.go_on()
                except UserError:
                    time.sleep(0.1)  # what it takes to end
                    events.append("ended")
                    raise

    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    assert begun.wait(5)
    work.stop()
    assert events == ["ended"]
    thread.join(5)
    with pytest.raises(UserError, match="stopping"), work.on_a_photo():
        pytest.fail("begun after the stop")
