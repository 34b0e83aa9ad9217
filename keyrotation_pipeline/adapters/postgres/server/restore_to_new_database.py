"""Restores a dump into a new database of the application's own server, next to the old one."""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.postgres_rewriting import PostgresRewriting
from keyrotation_pipeline.adapters.postgres.inventory import contents
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect, display_name
from keyrotation_pipeline.adapters.postgres.server.programs import Programs
from keyrotation_pipeline.adapters.postgres.server.restore import LONGEST_RESTORE_SECONDS, entries, restore
from keyrotation_pipeline.errors import PreflightError, RequestError
from keyrotation_pipeline.ports.backups import RecoveryKey, RestoredDump

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}", re.ASCII)


class RestoreToNewDatabase:
    """`NewDatabases` of the server that `url` names.

    Args:
        url: of the application's database.
        binaries: directory of the pg_restore to use; None finds one.
        longest_seconds: how long a dump's own SQL may take.
    """

    def __init__(self, url: str, binaries: Path | None, longest_seconds: float = LONGEST_RESTORE_SECONDS) -> None:
        self._url = url
        self._binaries = binaries
        self._longest_seconds = longest_seconds

    @contextmanager
    def restored(self, database: str, name: str, dump: Path, key: RecoveryKey) -> Iterator[RestoredDump]:
        """See `NewDatabases.restored`."""
        if not _NAME.fullmatch(database):
            raise RequestError(
                f"{database!r} is not a valid name for the new database; use letters, digits, _ and -, 63 at most"
            )
        with closing(connect(self._url)) as connection:
            programs = Programs.of_server(self._binaries, connection.info.server_version // 10000)
            listed = entries(programs, name, dump, key)
            self._create(connection, database)
        url = make_conninfo(self._url, dbname=database)
        try:
            done = restore(programs, url, name, dump, key, listed, longest_seconds=self._longest_seconds)
        except BaseException:
            # A partial database under a good name would be mistaken for a complete one. FORCE ends what still runs
            # there.
            with closing(connect(self._url)) as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))
            raise
        with closing(connect(url)) as connection:
            inventory = PostgresInventory(connection)
            rewriting = PostgresRewriting(connection, partial(connect, url), Limits())
            content = contents.count(connection)
            yield RestoredDump(inventory, rewriting, content, done.failures, done.left_out, display_name(url))

    def _create(self, connection: Connection, database: str) -> None:
        # From template0, as pg_restore requires: a custom template may already contain what the dump contains.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(database))
        try:
            connection.execute(statement)
        except psycopg.errors.DuplicateDatabase:
            raise RequestError(f"there is a database {database} already; name another with --into") from None
        except psycopg.errors.InsufficientPrivilege:
            raise PreflightError(
                f"the role may not create a database next to {display_name(self._url)}; "
                "as a superuser, ALTER ROLE … CREATEDB"
            ) from None
