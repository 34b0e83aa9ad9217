"""The base of all parts of the ledger: one connection, its transactions and errors, and locks that only our role takes.

Not advisory locks: any role that can connect reads their numbers in `pg_locks`, and holds them for as long as it
likes. Nobody but our role may write the tables of the schema `keyrotation`, or lock them against a writer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString, Protocol

import psycopg
from psycopg.rows import dict_row

from keyrotation_pipeline.adapters.own_schema import own, schema_of
from keyrotation_pipeline.adapters.postgres.server.connection import (
    READ_ONLY,
    Connection,
    codec_of,
    display_name,
    readable,
    storable,
)
from keyrotation_pipeline.audit.history import Checkpoints
from keyrotation_pipeline.errors import AtWorkError, DatabaseUnavailableError, PreflightError
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.audit_state import Verify
from keyrotation_pipeline.ports.clock import Clock

# A lock ends with its session, which is identified by its process id and its start; of sessions of other roles the
# start may be hidden, but each began after the server did. Sessions that take the same name at
# once wait for each other's commit. That waits for neither disk nor standbys: what a crash could lose are locks of
# sessions that it has ended.
TAKE: LiteralString = """
INSERT INTO keyrotation.session_locks AS held (name, pid, session_began_at)
SELECT %(name)s, pid, backend_start
FROM pg_stat_activity, set_config('synchronous_commit', 'off', true) WHERE pid = pg_backend_pid()
ON CONFLICT (name) DO UPDATE SET (pid, session_began_at) = (excluded.pid, excluded.session_began_at)
WHERE NOT EXISTS (
    SELECT FROM pg_stat_activity a
    WHERE a.pid = held.pid AND coalesce(a.backend_start = held.session_began_at, true)
      AND held.session_began_at >= pg_postmaster_start_time())
RETURNING name
"""

RELEASE: LiteralString = """
DELETE FROM keyrotation.session_locks USING set_config('synchronous_commit', 'off', true) WHERE name = %(name)s
"""

HOLDER: LiteralString = """
SELECT pid, usename, application_name FROM keyrotation.session_locks JOIN pg_stat_activity USING (pid)
WHERE name = %(name)s
"""

HELD: LiteralString = """
SELECT name FROM keyrotation.session_locks held JOIN pg_stat_activity a USING (pid)
WHERE starts_with(name, %(prefix)s) AND coalesce(a.backend_start = held.session_began_at, true)
  AND held.session_began_at >= pg_postmaster_start_time()
ORDER BY name
"""

# Nobody is in the way by reading a table, which takes its weakest lock.
TABLE_HOLDER: LiteralString = """
SELECT l.pid, a.usename, a.application_name FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'relation' AND l.granted AND l.mode <> 'AccessShareLock'
  AND l.relation = to_regclass(%(table)s)
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.pid IS DISTINCT FROM pg_backend_pid()
"""


def described(holders: Sequence[Mapping[str, Any]]) -> str:
    """Returns a lock's holder, as a query above names it: its process id, role and application."""
    if not holders:
        return "a session that has just ended"
    holder = holders[0]
    if holder["pid"] is None:
        return "a prepared transaction (see pg_prepared_xacts)"
    return f"session {holder['pid']} ({holder['application_name'] or 'unnamed'}, role {holder['usename']})"


Row = Mapping[str, Any]
# None: the statement may be several, and holds a % as it is.
Parameters = Sequence[object] | Mapping[str, object] | None

_BEGIN_READING = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"


class LoadedKey(Protocol):
    """A key that was read."""

    @property
    def public(self) -> str:
        """The base64 of its SubjectPublicKeyInfo."""

    def sign(self, manifest: bytes) -> bytes:
        """Returns an Ed25519 signature of 64 bytes."""


class EventSigner(Protocol):
    """The key of this home, which signs its backups and its events."""

    def loaded(self) -> LoadedKey:
        """Reads the key; raises BackupError if it cannot be read."""

    def verifies(self, public: str, manifest: bytes, signature: bytes) -> bool:
        """Returns whether a signature is over exactly this, by this public key."""


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
        advance: stores the newest head outside the database, after each commit that appended an event.
        signer: signs each event; None: nobody does.
        kept: reads the heads that home and backups name; signing begins only in an audit that leads through them.
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
        signer: EventSigner | None = None,
        kept: Callable[[], Iterable[AuditHead]] = tuple,
    ) -> None:
        self.connection = connection
        self.clock = clock
        self.actor = actor
        self.database = database
        self.verify = verify
        self.checkpoints = checkpoints
        self.advance = advance
        self.signer = signer
        self.kept = kept
        self._is_reading = False
        self._is_snapshot = False
        self._refused: PreflightError | None = None
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
        if self._is_snapshot:
            yield
            return
        with self.transaction():
            self.query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            self._is_snapshot, self._refused = True, None
            try:
                yield
            except psycopg.errors.InFailedSqlTransaction:
                if self._refused is None:
                    raise
                raise self._refused from None  # which the look survived, though its transaction did not
            finally:
                self._is_snapshot = False

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
            who = described(self.query(HOLDER, {"name": name}))
            raise AtWorkError(f"{who} is already at {name}; wait for it, or end it and run this again")
        try:
            yield
        finally:
            # A lost connection has already released the lock.
            if not self.connection.closed:
                with self._between_readings():
                    self.query(RELEASE, {"name": name})

    def held_locks(self, prefix: str) -> tuple[str, ...]:
        """See `Ledger.held_locks`."""
        return tuple(row["name"] for row in self.query(HELD, {"prefix": prefix}))

    def _take(self, name: str) -> bool:
        try:
            with self._between_readings():
                return bool(self.query(TAKE, {"name": name}))
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
            self._refused = PreflightError(
                f"the database role may not use the schema {self._schema} of {self._name()}; "
                "connect as the role that ran `keyrotation init`"
            )
            raise self._refused from None
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

    def _is_lost(self, error: psycopg.OperationalError) -> bool:
        return self.connection.closed or isinstance(error, psycopg.errors.AdminShutdown)

    def _lost(self) -> DatabaseUnavailableError:
        return DatabaseUnavailableError(
            f"the connection to {self._name()} was lost; check that the server runs, then run this again to continue"
        )

    def _name(self) -> str:
        # `database` is the identity: name@host, system identifier.
        return self.database.partition(",")[0] if self.connection.closed else display_name(self.connection.info.dsn)
