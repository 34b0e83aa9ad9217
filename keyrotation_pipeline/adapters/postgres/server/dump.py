"""A dump of the whole database as a stream, and what was counted in the very snapshot that it shows."""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from keyrotation_pipeline.adapters.child_process import ending_with_us
from keyrotation_pipeline.adapters.postgres.inventory import census, contents
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.programs import Programs
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.model.backups import TableContent
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount
from keyrotation_pipeline.ports.backups import DumpUnderWay

# The snapshot lives as long as the transaction that exports it, which has nothing to do while pg_dump works.
_SNAPSHOT = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL idle_in_transaction_session_timeout = 0; "
    "SET LOCAL lock_timeout = '60s'"
)
# Of all that pg_dump may say only this: anything else could quote a row.
_DENIED = re.compile(r"permission denied for (?:table|schema|sequence|relation|large object) [\w.\"$-]+")


@dataclass(frozen=True)
class PostgresDump:
    """`DumpSource` over pg_dump.

    Args:
        url: of the application's database.
        connect: opens a connection to it.
        binaries: directory of the pg_dump to use; None finds one.
    """

    url: str = field(repr=False)  # both may hold a password
    connect: Callable[[], Connection] = field(repr=False)
    binaries: Path | None

    @contextmanager
    def dumping(self, tables: Sequence[EncryptedTable]) -> Iterator[DumpUnderWay]:
        """See `DumpSource.dumping`."""
        with closing(self.connect()) as connection:
            major = connection.info.server_version // 10_000
            programs = Programs.of_server(self.binaries, major)
            programs.require_not_older(major)
            connection.execute(_SNAPSHOT)
            snapshot = str(connection.execute("SELECT pg_export_snapshot()").fetchall()[0][0])
            counted = tuple(map(_content, census.count(connection, tables)))
            everything = contents.count(connection)
            options = ("--format=custom", "--no-password", "--lock-wait-timeout=60s", f"--snapshot={snapshot}")
            with _running(programs.command("pg_dump", *options), programs.environment(self.url)) as stream:
                yield DumpUnderWay(stream, counted, major, everything)


@contextmanager
def _running(command: Sequence[str], environment: dict[str, str]) -> Iterator[IO[bytes]]:
    with (
        tempfile.TemporaryFile() as told,
        subprocess.Popen(  # noqa: S603  arguments of our own
            ending_with_us(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=told, env=environment
        ) as process,
    ):
        if process.stdout is None:  # pragma: no cover  for the type checker
            raise BackupError("pg_dump has no output; run it again")
        try:
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        # A pg_dump that dies closes its end of the pipe as one that is done does: only its exit code tells.
        if process.wait():
            told.seek(0)
            raise BackupError(_refusal(told.read().decode(errors="replace"), process.returncode))


def _refusal(told: str, code: int) -> str:
    if denied := _DENIED.search(told):
        return f"pg_dump may not read everything ({denied[0]}); grant its role pg_read_all_data and BYPASSRLS"
    return (
        f"pg_dump ended with {code} before the dump was complete, so it was thrown away; see the server's log, "
        "then run this again"
    )


def _content(count: TableCount) -> TableContent:
    return TableContent(
        count.table, count.rows, {column: dict(count.by_column[column]) for column in count.table.columns}
    )
