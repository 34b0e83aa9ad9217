"""Limits how long a statement over a restored dump may take: code of the dump may run in it."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Event, Thread

import psycopg

from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.errors import KeyRotationError, RestoredQueryTimeoutError

_LONGEST_PAUSE_SECONDS = 30.0
_SHARE_OF_LIMIT = 0.1
# Code that runs as our role can end the watching session.
_FAILED_LOOKS = 3
_LONGEST_SECONDS = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - query_start)), 0)::float8
FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@contextmanager
def within_deadline(url: str, name: str, seconds: float, stop: Callable[[], None]) -> Iterator[None]:
    """Limits every statement on a server to `seconds` while the context lasts.

    Args:
        url: of the role that works there; statements of others are not visible.
        name: the dump's name, for the sentence.
        stop: ends the server.

    Raises:
        RestoredQueryTimeoutError: a statement took longer; takes precedence over errors that its end caused.
    """
    over, overtime = Event(), Event()
    watch = Thread(target=_watch, args=(url, seconds, over, overtime, stop), daemon=True)
    watch.start()
    try:
        yield
    except (psycopg.Error, KeyRotationError):
        if not overtime.is_set():
            raise
    finally:
        over.set()
        watch.join()
    if overtime.is_set():
        raise RestoredQueryTimeoutError(name, seconds)


def _watch(url: str, seconds: float, over: Event, overtime: Event, stop: Callable[[], None]) -> None:
    failed = 0
    while not over.wait(min(_LONGEST_PAUSE_SECONDS, seconds * _SHARE_OF_LIMIT)):
        longest = _longest(url)
        failed = failed + 1 if longest is None else 0
        if failed == _FAILED_LOOKS or (longest is not None and longest > seconds):
            overtime.set()
            stop()
            return


def _longest(url: str) -> float | None:
    """Returns how many seconds the longest present statement has taken; None: statements are hidden."""
    try:
        with closing(connect(url)) as connection:
            ((found,),) = connection.execute(_LONGEST_SECONDS).fetchall()
    except (psycopg.Error, KeyRotationError):
        return None
    return found if isinstance(found, float) else None
