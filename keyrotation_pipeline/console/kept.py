"""A page that is made at most so often, whoever asks how often."""

from collections.abc import Callable
from threading import Lock, Thread
from time import monotonic
from typing import Generic, TypeVar

FRESH_SECONDS = 2.0
# So old may be what is shown at once, while it is made anew.
SHOWN_SECONDS = 20.0
# Of the time, at most one part in so many is spent making it.
REST = 3.0
Page = TypeVar("Page")


class Kept(Generic[Page]):
    """What a function last returned, with its age; one thread makes it anew at a time.

    Args:
        make: never raises.
        now: seconds.
    """

    def __init__(self, make: Callable[[], Page], now: Callable[[], float] = monotonic) -> None:
        self._make, self._now = make, now
        self._making = Lock()
        self._page: Page | None = None
        self._made_at, self._took = float("-inf"), 0.0

    def get(self) -> Page:
        """What was made within some seconds; else, if not too long ago, what was made then, and it is made anew."""
        page, age = self._page, self._now() - self._made_at
        if page is None or age > SHOWN_SECONDS:
            with self._making:
                page = self._page
                if page is None or self._now() - self._made_at > SHOWN_SECONDS:  # nobody else has just made it
                    page = self._renew()
        elif age > max(FRESH_SECONDS, REST * self._took) and self._making.acquire(blocking=False):
            Thread(target=self._renew_and_release, daemon=True).start()
        return page

    def _renew_and_release(self) -> None:
        try:
            self._renew()
        finally:
            self._making.release()

    def _renew(self) -> Page:
        began = self._now()
        self._page = page = self._make()
        self._made_at = self._now()
        self._took = self._made_at - began
        return page
