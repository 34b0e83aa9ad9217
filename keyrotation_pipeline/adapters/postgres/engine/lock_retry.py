"""Waits for a table that others have locked: retries once a second, up to a limit, and reports each wait."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

from psycopg import errors

from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError

T = TypeVar("T")

# Another session has locked the table, or the server has resolved a deadlock: a retry may succeed.
WORTH_ANOTHER_TRY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)


@dataclass
class LockRetry:
    """Retries an action that failed because of a lock. Every success resets the limit.

    Args:
        connection: rolled back after a failure.
        table: its name in messages.
        wait: reports the reason and waits a second.
    """

    connection: Connection
    table: str
    limit_seconds: float
    wait: Callable[[str], None]
    _since: float | None = None

    def succeeded(self) -> None:
        """Records that some action has succeeded."""
        self._since = None

    def attempt(self, action: Callable[[], T]) -> T:
        """Repeats an action until it succeeds.

        Raises:
            BlockedError: no action has succeeded for longer than the limit.
        """
        # Not `attempts`: the limit counts from the last success of any action.
        while True:
            try:
                return action()
            except WORTH_ANOTHER_TRY:
                self.connection.rollback()
            self._since = self._since or monotonic()
            if monotonic() - self._since > self.limit_seconds:
                raise BlockedError(
                    f"{self.table} is locked by another session, such as VACUUM FULL or ALTER TABLE; "
                    "when that has ended, run `keyrotation rotate` again, it continues from here"
                )
            self.wait(f"waiting: {self.table} is locked by another session")
