"""Waiting for a table that others have locked: saying so, once a second, up to a limit."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

from psycopg import errors

from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError

T = TypeVar("T")

# A table locked by others, or a deadlock that the server ended: the same may go through the next time.
WORTH_ANOTHER_TRY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)


@dataclass
class Patience:
    """Repeats what failed for a lock. Progress ends the wait, so that the limit counts from the last one.

    Args:
        connection: rolled back after a failure.
        table: as messages name it.
        wait: tells of the reason and waits a second.
    """

    connection: Connection
    table: str
    limit_seconds: float
    wait: Callable[[str], None]
    _since: float | None = None

    def progress(self) -> None:
        """Something went through."""
        self._since = None

    def attempt(self, action: Callable[[], T]) -> T:
        """Do something until it goes through.

        Raises:
            BlockedError: it did not, and nothing else did either, for longer than the limit.
        """
        while True:
            try:
                return action()
            except WORTH_ANOTHER_TRY:
                self.connection.rollback()
            self._since = self._since or monotonic()
            if monotonic() - self._since > self.limit_seconds:
                raise BlockedError(
                    f"{self.table} is locked by another session, such as VACUUM FULL or ALTER TABLE; "
                    "when that has ended, run `keyrotation rotate` again, it goes on from here"
                )
            self.wait(f"waiting: {self.table} is locked by another session")
