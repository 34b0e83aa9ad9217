"""The base of all parts of the ledger: one connection, its transactions and session locks, and plain errors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString, Protocol

import psycopg
from psycopg.rows import dict_row

from keyrotation_pipeline.adapters.own_schema import own, schema_of
from keyrotation_pipeline.adapters.postgres.ledger import session_locks
from keyrotation_pipeline.adapters.postgres.server.connection import (
    READ_ONLY,
    Connection,
    codec_of,
    display_name,
    readable,
    storable,
)
from keyrotation_pipeline.audit.checkpoint import Checkpoints
from keyrotation_pipeline.errors import AtWorkError, DatabaseUnavailableError, PreflightError
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.audit_state import Verify
from keyrotation_pipeline.ports.clock import Clock

Row = Mapping[str, Any]
# None: the statement may be several, and holds a % as it is.
Parameters = Sequence[object] | Mapping[str, object] | None

_BEGIN_READING = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"


class Advance(Protocol):
    """Stores a newer head of the audit in the home."""

    def __call__(self, head: AuditHead, replaces: Callable[[AuditHead], bool]) -> None:
        """Replaces the stored head by this one, if the audit says so of the stored one."""


class LedgerSession:
    """The ledger's connection.

    Args:
        connection: autocommit; shared with the proof, so that evidence and its record commit together.
        actor: the name of whoever acts, for the audit.
        database: the database's identity, for the audit.
        verify: verifies officers' signatures, as of the moment they were recorded.
        checkpoints: where the home stores what an earlier process has replayed; None: nowhere.
        advance: stores the newest head outside the database, after a commit that changed something.
    """

    def __init__(
        self,
        connection: Connection,
        clock: Clock,
        actor: str,
        database: str,
        verify: Verify,
        checkpoints: Checkpoints | None = None,
        advance: Advance | None = None,
    ) -> None:
        self.connection = connection
        self.clock = clock
        self.actor = actor
        self.database = database
        self.verify = verify
        self.checkpoints = checkpoints
        self.advance = advance
        self._is_reading = False
        self._schema = schema_of(connection)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `Ledger.transaction`; a transaction inside a transaction is a savepoint."""
        try:
            with self._between_readings(), self.connection.transaction():
                yield
        except psycopg.OperationalError as error:
            if self._is_lost(error):
                raise self._lost() from None
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """See `Ledger.snapshot`."""
        with self.transaction():
            self.query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See `Ledger.reading`; between two statements it holds no snapshot, so nobody has to wait for it."""
        if self._is_reading:
            yield
            return
        self._begin_reading()
        try:
            yield
        finally:
            self._end_reading()

    @contextmanager
    def _between_readings(self) -> Iterator[None]:
        was_reading = self._is_reading
        self._end_reading()
        try:
            yield
        finally:
            if was_reading and not self.connection.closed:
                self._begin_reading()

    def _begin_reading(self) -> None:
        self.query(_BEGIN_READING)
        self._is_reading = True

    def _end_reading(self) -> None:
        if self._is_reading and not self.connection.closed:
            self.connection.commit()
        self._is_reading = False

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """See `Ledger.lock`."""
        if not self._take(name):
            who = session_locks.described(self.query(session_locks.HOLDER, {"name": name}))
            raise AtWorkError(f"{who} is already at {name}; wait for it, or end it and run this again")
        try:
            yield
        finally:
            # A lost connection has already released the lock.
            if not self.connection.closed:
                with self._between_readings():
                    self.query(session_locks.RELEASE, {"name": name})

    def held_locks(self, prefix: str) -> tuple[str, ...]:
        """See `Ledger.held_locks`."""
        return tuple(row["name"] for row in self.query(session_locks.HELD, {"prefix": prefix}))

    def _take(self, name: str) -> bool:
        try:
            with self._between_readings():
                return bool(self.query(session_locks.TAKE, {"name": name}))
        except psycopg.errors.LockNotAvailable:
            return False

    def query(self, statement: LiteralString, parameters: Parameters = ()) -> list[Row]:
        """Executes one statement on the schema of the home and returns its rows, if it has any.

        Raises:
            DatabaseUnavailableError: the connection was lost.
            PreflightError: the role may not do this, or the database is read-only.
        """
        try:
            return self._rows(statement, parameters)
        except psycopg.errors.InsufficientPrivilege:
            raise PreflightError(
                f"the database role may not use the schema {self._schema} of {self._name()}; "
                "connect as the role that ran `keyrotation init`"
            ) from None
        except psycopg.errors.ReadOnlySqlTransaction:
            raise PreflightError(f"{self._name()} {READ_ONLY}") from None
        except psycopg.OperationalError as error:
            if self._is_lost(error):
                raise self._lost() from None
            raise

    def _rows(self, statement: LiteralString, parameters: Parameters) -> list[Row]:
        try:
            with self.connection.cursor(row_factory=dict_row) as cursor:
                codec = codec_of(self.connection)
                cursor.execute(own(statement), storable(parameters, codec))
                return [readable(row, codec) for row in cursor.fetchall()] if cursor.description else []
        except psycopg.Error:
            if self._is_reading:  # the error has ended it; the next query may succeed
                with self._between_readings():
                    pass
            raise

    def one(self, statement: LiteralString, parameters: Parameters = ()) -> Row:
        """Returns the only row of a statement that always has one."""
        (row,) = self.query(statement, parameters)
        return row

    def _is_lost(self, error: psycopg.OperationalError) -> bool:
        return self.connection.closed or isinstance(error, psycopg.errors.AdminShutdown)

    def _lost(self) -> DatabaseUnavailableError:
        return DatabaseUnavailableError(
            f"the connection to {self._name()} was lost; check that the server runs, then run this again to continue"
        )

    def _name(self) -> str:
        # `database` is the identity: name@host, system identifier.
        return self.database.partition(",")[0] if self.connection.closed else display_name(self.connection.info.dsn)
