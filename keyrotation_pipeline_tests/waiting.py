"""Waiting in tests: for something to become true, on a machine of any speed."""

import time
from collections.abc import Callable

# Only a failure takes so long.
PATIENCE_SECONDS = 120.0


def eventually(true: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether it became true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
