"""Runs pg_dump as a stream, and counts what is in its snapshot."""

import re
import select
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psycopg
from psycopg import errors

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.evidence import evidence_of
from keyrotation_pipeline.adapters.postgres.inventory import contents, snapshots
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.database_definition import read_definition
from keyrotation_pipeline.adapters.postgres.server.programs import Programs
from keyrotation_pipeline.adapters.postgres.server.undumped import read_undumped
from keyrotation_pipeline.adapters.process import die_with_parent
from keyrotation_pipeline.errors import BackupError, BlockedError
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.backups import DatabaseContent, TableContent
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.backups import DumpContent, DumpUnderWay
from keyrotation_pipeline.ports.clock import attempts

# The snapshot lives as long as the transaction that exports it, which is idle while pg_dump works.
_SNAPSHOT = f"{snapshots.BEGIN}; SET LOCAL idle_in_transaction_session_timeout = 0"
_OPTIONS = ("--format=custom", "--no-password", "--lock-wait-timeout=60s")
# A dump begins again for so long, where tables are rewritten or locked each time.
PATIENCE_SECONDS = 60.0
# The only message of pg_dump to show: anything else could quote a row.
_DENIED = re.compile(r"permission denied for (?:table|schema|sequence|relation|large object) [\w.\"$-]+")


class _HiddenRowsError(Exception):
    """The snapshot of a dump may not show the rows of a table."""


@dataclass(frozen=True)
class PostgresDump:
    """`DumpSource` over pg_dump.

    Args:
        url: of the application's database.
        connect: opens a connection to it.
        binaries: directory of the pg_dump to use; None finds one.
        ring: reads every key in the store, for tables whose values SQL cannot count by version.
    """

    url: str = field(repr=False)  # both may hold a password
    connect: Callable[[], Connection] = field(repr=False)
    binaries: Path | None
    ring: Callable[[], KeyRing] | None = None

    @contextmanager
    def dumping(self, tables: Sequence[EncryptedTable]) -> Iterator[DumpUnderWay]:
        """See `DumpSource.dumping`. Counting takes a fifth of the time of pg_dump, so both work at the same time."""
        with closing(self.connect()) as connection, closing(self.connect()) as second, ThreadPoolExecutor(1) as thread:
            major = connection.info.server_version // 10_000
            programs = Programs.of_server(self.binaries, major)
            programs.require_not_older(major)
            with self._begun(programs, connection, second) as stream:
                definition, undumped = read_definition(connection), read_undumped(connection)
                counting = thread.submit(_counted, second, tables, self.ring)
                try:
                    yield DumpUnderWay(stream, lambda: DumpContent(definition, major, *counting.result(), undumped))
                finally:
                    # Nobody waits for it any more. (If the server is gone, so is that session.)
                    with suppress(psycopg.Error):
                        connection.execute("SELECT pg_terminate_backend(%s)", (second.info.backend_pid,))

    @contextmanager
    def _begun(self, programs: Programs, exporting: Connection, counting: Connection) -> Iterator[IO[bytes]]:
        """Yields the output of a pg_dump whose snapshot shows every row, as do both connections from then on.

        Raises:
            BlockedError: tables are rewritten, or locked, each time that it begins.
        """
        for _ in attempts(SystemClock(), pause_seconds=1.0, patience_seconds=PATIENCE_SECONDS):
            exporting.execute(_SNAPSHOT.encode())
            snapshot = str(exporting.execute("SELECT pg_export_snapshot()").fetchall()[0][0])
            # Else what the database sets for its clients, to which it converts, or says that it has.
            encoding = exporting.info.parameter_status("server_encoding")
            command = programs.command("pg_dump", *_OPTIONS, f"--encoding={encoding}", f"--snapshot={snapshot}")
            with suppress(_HiddenRowsError), _running(command, programs.environment(self.url)) as stream:
                # It writes nothing before it has locked every table.
                select.select([stream], [], [])
                _require_every_row(counting, snapshot)
                yield stream
                return
            for each in (exporting, counting):
                each.execute("ROLLBACK")
        raise BlockedError(
            "tables are being locked or rewritten (ALTER TABLE, TRUNCATE, VACUUM FULL, CLUSTER), so no dump can "
            "begin; wait until that ends, then run this again"
        )


def _require_every_row(connection: Connection, snapshot: str) -> None:
    """Begins to read under a snapshot: locks every table, and refuses one whose rows it does not show.

    Raises:
        _HiddenRowsError: a table was rewritten since the snapshot, or is locked.
    """
    connection.execute(f"{_SNAPSHOT}; SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
    try:
        shows_every_row = not snapshots.rewritten(connection, contents.lock(connection))
    except (errors.LockNotAvailable, errors.UndefinedTable, errors.InvalidSchemaName):
        shows_every_row = False
    if not shows_every_row:
        raise _HiddenRowsError


def _counted(
    connection: Connection, tables: Sequence[EncryptedTable], ring: Callable[[], KeyRing] | None
) -> tuple[tuple[TableContent, ...], DatabaseContent]:
    return tuple(evidence_of(connection, table).content(ring) for table in tables), contents.count(connection)


@contextmanager
def _running(command: Sequence[str], environment: dict[str, str]) -> Iterator[IO[bytes]]:
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(  # noqa: S603  arguments of our own
            die_with_parent(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output, env=environment
        ) as process,
    ):
        if process.stdout is None:  # pragma: no cover  for the type checker
            raise BackupError("pg_dump has no output; run it again")
        try:
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        # A pg_dump that dies closes the pipe like one that is done: only its exit code differs.
        if process.wait():
            output.seek(0)
            raise BackupError(_refusal(output.read().decode(errors="replace"), process.returncode))


def _refusal(output: str, code: int) -> str:
    if denied := _DENIED.search(output):
        return f"pg_dump may not read everything ({denied[0]}); grant its role pg_read_all_data and BYPASSRLS"
    return (
        f"pg_dump ended with {code} before the dump was complete, so it was discarded; see the server's log, "
        "then run this again"
    )
