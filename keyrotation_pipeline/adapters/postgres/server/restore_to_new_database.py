"""Restores a dump into a new database of a server, such as the application's own, next to the old one."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from keyrotation_pipeline.adapters.own_schema import with_schema
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.server.connection import connect, display_name
from keyrotation_pipeline.adapters.postgres.server.restore import LONGEST_RESTORE_SECONDS
from keyrotation_pipeline.adapters.postgres.server.restore_plan import BY_SUPERUSER
from keyrotation_pipeline.adapters.postgres.server.restored_copy import Target, restored_copy
from keyrotation_pipeline.errors import IncompleteRestoreError, RequestError
from keyrotation_pipeline.model.backups import DatabaseCopy
from keyrotation_pipeline.ports.backups import RecoveryKey, RestoredDump

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}", re.ASCII)


class RestoreToNewDatabase:
    """`NewDatabases` of the server that `url` names.

    Args:
        url: of any database there, as a superuser or a role with CREATEDB and CREATEROLE.
        binaries: directory of the pg_restore and pg_dump to use; None finds some.
        longest_seconds: how long a dump's own SQL may take.
        schema: returns that of the home whose dumps these are, once it is known; else the one that `url` names.
    """

    def __init__(
        self,
        url: str,
        binaries: Path | None,
        longest_seconds: float = LONGEST_RESTORE_SECONDS,
        schema: Callable[[], str] | None = None,
    ) -> None:
        self._url = url
        self._schema = schema
        self._binaries = binaries
        self._longest_seconds = longest_seconds

    @contextmanager
    def restored(self, database: str, dump: DatabaseCopy, file: Path, key: RecoveryKey) -> Iterator[RestoredDump]:
        """See `NewDatabases.restored`."""
        if not _NAME.fullmatch(database):
            raise RequestError(
                f"{database!r} is not a valid name for the new database; use letters, digits, _ and -, 63 at most"
            )
        self._require_not_older(dump)
        target = Target(
            admin=self._url if self._schema is None else with_schema(self._url, self._schema()),
            description=display_name(self._url),
            binaries=self._binaries,
            by_superuser=BY_SUPERUSER,
            longest_seconds=self._longest_seconds,
            # A second thread decrypts while the server reads for the first.
            limits=Limits(threads_per_worker=2),
        )
        with restored_copy(target, database, dump, file, key) as restored:
            yield restored

    def _require_not_older(self, dump: DatabaseCopy) -> None:
        with closing(connect(self._url)) as connection:
            major = connection.info.server_version // 10_000
        if major < dump.server_major:
            raise IncompleteRestoreError(
                f"{dump.file.name} is of PostgreSQL {dump.server_major}, and {display_name(self._url)} is a server of "
                f"{major}; restore into one of {dump.server_major} or later"
            )
