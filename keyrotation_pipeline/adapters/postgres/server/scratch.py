"""Throw-away servers for recovery tests: a dump decrypted into pg_restore, nothing of it kept when the test ends."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from psycopg.conninfo import conninfo_to_dict

from keyrotation_pipeline.adapters.postgres.database import PostgresDatabase
from keyrotation_pipeline.adapters.postgres.engine import Limits
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.adapters.postgres.server.embedded import APPLICATION_DATABASE, EmbeddedServer
from keyrotation_pipeline.adapters.postgres.server.installation import for_dumps_of
from keyrotation_pipeline.adapters.postgres.server.programs import Programs
from keyrotation_pipeline.errors import DamagedBackupError
from keyrotation_pipeline.model.backups import DatabaseCopy
from keyrotation_pipeline.ports.backups import RecoveryKey, RestoredDump

# pg_restore goes on after a statement that fails, such as one for a role or an extension that is not here.
_IGNORED = re.compile(rb"errors ignored on restore: (\d+)")


class ScratchServers:
    """`DumpRestorer` over servers of our own.

    Args:
        directory: in which they live, one test at a time: what is found there at the beginning is wiped.
        binaries: directory of the PostgreSQL to use; None finds one that fits the dump.
    """

    def __init__(self, directory: Path, binaries: Path | None) -> None:
        self._directory = directory
        self._binaries = binaries

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """See `DumpRestorer.workspace`. Only under the lock of the recovery test."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(mode=0o700, parents=True)
        try:
            with tempfile.TemporaryDirectory(dir=self._directory, prefix="files-") as files:
                yield Path(files)
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)

    @contextmanager
    def restored(self, dump: DatabaseCopy, file: Path, key: RecoveryKey) -> Iterator[RestoredDump]:
        """See `DumpRestorer.restored`."""
        installation, warning = for_dumps_of(self._binaries, dump.server_major)
        # Those that wrote the dump, since an older pg_restore would not read it.
        programs = Programs.of_server(self._binaries, dump.server_major)
        with (
            tempfile.TemporaryDirectory(dir=self._directory, prefix="server-") as home,
            EmbeddedServer(Path(home) / "postgres", installation) as server,
        ):
            url = server.url(APPLICATION_DATABASE)
            ignored = restore(programs, url, dump.file.name, file, key)
            with closing(connect(url)) as connection:
                database = PostgresDatabase(url, connection, partial(connect, url), Limits())
                yield RestoredDump(database, ignored, installation.description, warning)


def restore(programs: Programs, url: str, name: str, dump: Path, key: RecoveryKey) -> int:
    """Decrypt a dump into the empty database at `url`; gives back how many statements failed and were passed over.

    Raises:
        DamagedBackupError, WrongRecipientError: it cannot be decrypted, or what it says is not a dump.
    """
    # gpg tells only at its end whether what it gave was authentic: so nothing is concluded inside the block.
    with key.decrypting(name, dump) as plaintext:
        code, told = _pg_restore(programs, url, plaintext)
    ignored = _IGNORED.search(told)
    if code and ignored is None:
        raise DamagedBackupError(
            f"{name} decrypts, but pg_restore cannot read it; use another copy or an older backup, and a pg_restore "
            "that is not older than the pg_dump that wrote it"
        )
    return int(ignored[1]) if ignored else 0


def _pg_restore(programs: Programs, url: str, plaintext: IO[bytes]) -> tuple[int, bytes]:
    database = conninfo_to_dict(url)["dbname"]
    options = ("--no-owner", "--no-privileges", "--no-password", "--dbname", str(database))
    # What it says is looked at for a number only: it could quote rows.
    done = subprocess.run(  # noqa: S603  arguments of our own
        programs.command("pg_restore", *options),
        stdin=plaintext,
        capture_output=True,
        check=False,
        env=programs.environment(url),
    )
    return done.returncode, done.stderr
