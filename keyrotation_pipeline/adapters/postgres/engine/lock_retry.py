"""Waiting for a table that others have locked: try again once a second, up to a limit, and report each wait."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

from psycopg import errors

from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError

T = TypeVar("T")

# Others have locked the table, or the server has ended a deadlock: the next attempt may succeed.
WORTH_ANOTHER_TRY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)


@dataclass
class LockRetry:
    """Repeats an action that failed because of a lock. Every success starts the limit anew.

    Args:
        connection: rolled back after a failure.
        table: as messages name it.
        wait: reports the reason and waits a second.
    """

    connection: Connection
    table: str
    limit_seconds: float
    wait: Callable[[str], None]
    _since: float | None = None

    def succeeded(self) -> None:
        """Note that some action has succeeded."""
        self._since = None

    def attempt(self, action: Callable[[], T]) -> T:
        """Repeat an action until it succeeds.

        Raises:
            BlockedError: neither this action nor another has succeeded for longer than the limit.
        """
        # Not by `attempts`: the limit runs since the last success of any action, whichever it was.
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
