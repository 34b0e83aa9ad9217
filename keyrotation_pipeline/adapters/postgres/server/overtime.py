"""A limit for statements over what was restored: a server of ours on which one takes too long is ended.

Code of a dump may run in any statement, in any process of ours. The server's own `statement_timeout` is not enough: a
function can catch that error and go on.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Event, Thread

import psycopg

from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.errors import KeyRotationError, OvertimeError

_LONGEST_PAUSE_SECONDS = 30.0
_SHARE_OF_LIMIT = 0.1
# Code that runs as our role can end the session that looks.
_FAILED_LOOKS = 3
_LONGEST_SECONDS = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - query_start)), 0)::float8
FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@contextmanager
def ended_when_overtime(url: str, name: str, seconds: float, stop: Callable[[], None]) -> Iterator[None]:
    """While the context lasts, let no statement on a server take longer than `seconds`.

    Args:
        url: of whoever works there; nobody else's statements are seen.
        name: the dump's, for the sentence.
        stop: ends the server.

    Raises:
        OvertimeError: one took longer, whatever else its end has led to.
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
        raise OvertimeError(name, seconds)


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
    """How many seconds the longest present statement has taken; None: nobody lets us see it."""
    try:
        with closing(connect(url)) as connection:
            ((found,),) = connection.execute(_LONGEST_SECONDS).fetchall()
    except (psycopg.Error, KeyRotationError):
        return None
    return found if isinstance(found, float) else None
