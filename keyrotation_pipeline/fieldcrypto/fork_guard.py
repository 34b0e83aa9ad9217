"""What a fork waits for: its child lacks the other threads, and so would wait for ever for what one of them held."""

import concurrent.futures.thread  # noqa: F401  see below
import logging  # noqa: F401
import os
import threading
from types import TracebackType

PATIENCE_SECONDS = 5.0


class ForkGuard:
    """A lock that a fork takes, too. It waits at most `PATIENCE_SECONDS`: what hangs does not hold it up for ever."""

    def __init__(self) -> None:
        self._lock, self._forking = threading.RLock(), threading.local()
        os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._in_child)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def _before(self) -> None:
        self._forking.held = self._lock.acquire(timeout=PATIENCE_SECONDS)

    def _after(self) -> None:
        if self._forking.held:
            self._lock.release()

    def _in_child(self) -> None:
        self._lock = threading.RLock()  # nobody else would release it


# A fork takes first what was made last: so it waits before it holds the locks of the two modules above, without which
# nobody finishes importing a library.
LIBRARIES = ForkGuard()
"""Held by a thread that imports a library, or uses one of PKCS#11: that has no defined state in a child."""
