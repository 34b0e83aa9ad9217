"""Throw-away servers for recovery tests: a dump decrypted into pg_restore, nothing of it kept when the test ends.

Where a test is killed, its server ends with it, and its files are wiped by the next command.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from keyrotation_pipeline.adapters.held_directory import held
from keyrotation_pipeline.adapters.postgres.database import PostgresDatabase
from keyrotation_pipeline.adapters.postgres.engine import Limits
from keyrotation_pipeline.adapters.postgres.inventory import contents
from keyrotation_pipeline.adapters.postgres.server.beforehand import (
    BY_SUPERUSER,
    beforehand,
    is_left_out,
    require_available,
)
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.adapters.postgres.server.embedded import APPLICATION_DATABASE
from keyrotation_pipeline.adapters.postgres.server.installation import for_dumps_of
from keyrotation_pipeline.adapters.postgres.server.overtime import ended_when_overtime
from keyrotation_pipeline.adapters.postgres.server.powerless import hand_over
from keyrotation_pipeline.adapters.postgres.server.programs import Programs
from keyrotation_pipeline.adapters.postgres.server.rekeyable import ScratchDump
from keyrotation_pipeline.adapters.postgres.server.restoring import LONGEST_RESTORE_SECONDS, entries, restore
from keyrotation_pipeline.adapters.postgres.server.short_lived import ShortLivedServer
from keyrotation_pipeline.model.backups import DatabaseCopy
from keyrotation_pipeline.ports.backups import RecoveryKey, RestoredDump


class ScratchServers:
    """`DumpRestorer` over servers of our own.

    Args:
        directory: in which they live, one test at a time: what is found there at the beginning is wiped.
        binaries: directory of the PostgreSQL to use; None finds one that fits the dump.
        extensions: further ones that the superuser creates there.
        longest_seconds: how long a dump's own SQL may take to be restored, and then one statement, whoever runs it.
    """

    def __init__(
        self,
        directory: Path,
        binaries: Path | None,
        extensions: Sequence[str] = (),
        longest_seconds: float = LONGEST_RESTORE_SECONDS,
    ) -> None:
        self._directory = directory
        self._binaries = binaries
        self._allowed = BY_SUPERUSER | frozenset(extensions)
        self._longest_seconds = longest_seconds

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """See `DumpRestorer.workspace`. Only under the lock of the recovery test."""
        with (
            held(self._new_directory),
            tempfile.TemporaryDirectory(dir=self._directory, prefix="files-") as files,
        ):
            yield Path(files)

    def _new_directory(self) -> Path:
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(mode=0o700, parents=True)
        return self._directory

    @contextmanager
    def restored(
        self, dump: DatabaseCopy, file: Path, key: RecoveryKey, *, durable: bool = False
    ) -> Iterator[RestoredDump]:
        """See `DumpRestorer.restored`."""
        name = dump.file.name
        installation, warning = for_dumps_of(self._binaries, dump.server_major)
        # Those that wrote the dump, since an older pg_restore would not read it.
        programs = Programs.of_server(self._binaries, dump.server_major)
        listed = entries(programs, name, file, key)
        wanted = beforehand(programs, name, file, key, listed, self._allowed)
        with (
            tempfile.TemporaryDirectory(dir=self._directory, prefix="server-") as home,
            ShortLivedServer(Path(home) / "postgres", installation, durable=durable) as server,
        ):
            with closing(connect(server.url(APPLICATION_DATABASE))) as superuser:
                require_available(superuser, dump, listed, installation.description, self._allowed)
                url = hand_over(server, superuser, wanted)
            left_out, longest = partial(is_left_out, created=wanted), self._longest_seconds
            done = restore(programs, url, name, file, key, listed, left_out, longest_seconds=longest)
            # We look at it as the same role: code of the dump's never runs with more power than it was restored with.
            with ended_when_overtime(url, name, longest, server.end), closing(connect(url)) as connection:
                # Nobody else works there, so nobody is spared.
                database = PostgresDatabase(url, connection, partial(connect, url), Limits().in_an_emergency())
                rekeyable = ScratchDump(url, connection, self._binaries)
                content, told = contents.count(connection), installation.description
                yield RestoredDump(database, content, done.failures, done.left_out, told, warning, rekeyable, url)
