"""Ephemeral servers for recovery tests, rehearsals and re-encrypted backups; nothing of them is kept."""

import hashlib
import hmac
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

from psycopg import sql

from keyrotation_pipeline.adapters.child_process import die_with_parent
from keyrotation_pipeline.adapters.held_directory import held
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.postgres_rewriting import PostgresRewriting
from keyrotation_pipeline.adapters.postgres.engine.server_errors import without_content
from keyrotation_pipeline.adapters.postgres.inventory import contents
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.postgres.server.embedded import APPLICATION_DATABASE, EmbeddedServer
from keyrotation_pipeline.adapters.postgres.server.programs import Installation, PostgresDump, Programs, for_dumps_of
from keyrotation_pipeline.adapters.postgres.server.restore import (
    LONGEST_RESTORE_SECONDS,
    ended_when_overtime,
    entries,
    restore,
)
from keyrotation_pipeline.adapters.postgres.server.restore_prerequisites import (
    BY_SUPERUSER,
    beforehand,
    hand_over,
    is_left_out,
    require_available,
)
from keyrotation_pipeline.errors import KeyRotationError, MalformedCiphertextError
from keyrotation_pipeline.fieldcrypto.cipher import decrypt
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.backups import DatabaseCopy
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.backups import DumpSource, ReadRows, RecoveryKey, RestoredDump

# Immediate shutdown: the server ends its children at once and writes nothing more.
_SIGNAL = "QUIT"
_NOTHING_IS_KEPT = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")
_END_SECONDS = 30
_STATUS_LINE = 7


class ShortLivedServer(EmbeddedServer):
    """An `EmbeddedServer` of one process of ours. `pg_ctl` would detach it; so it is started directly.

    Args:
        durable: it waits for its disk, though nothing of it is kept: what takes time there takes it here too.
    """

    INITDB = ("--no-sync",)

    def __init__(self, directory: Path, installation: Installation, *, durable: bool = False) -> None:
        super().__init__(directory, installation)
        self._options = () if durable else _NOTHING_IS_KEPT
        self._process: subprocess.Popen[bytes] | None = None

    def _launch(self) -> bool:
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        with ExitStack() as stack:
            directory, descriptors = stack.enter_context(self._account.reaching(self.directory))
            log = stack.enter_context((self.directory / "log").open("ab"))
            self._configure(directory)
            command = [str(self._installation.binaries / "postgres"), "-D", str(directory / "data"), *self._options]
            self._process = subprocess.Popen(  # noqa: S603  arguments of our own
                die_with_parent(command, _SIGNAL),
                cwd="/",
                pass_fds=descriptors,
                env=self._installation.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._account.as_arguments(),
            )
        return True

    def _postmaster_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        # The server writes this file line by line while it starts; the last line says how far it is.
        try:
            told = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return [line.strip() for line in told[_STATUS_LINE:]] == ["ready"] and super()._answers()

    def end(self) -> None:
        """Have it end at once, with all its sessions; leaving it later is as always."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)

    def _stop(self) -> None:
        if self._process is None:
            return
        self.end()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if not self._has_short_path():
            with suppress(OSError):
                self._account.short_directory(self.directory).rmdir()


# Rows are read so many at a time: a row may hold megabytes.
_ROWS = 32
_MODULUS = 1 << 256
# Generated columns follow from the others.
_OTHERS = """
SELECT attname FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attname <> ALL (%s)
ORDER BY attnum
"""


class ScratchDump:
    """`RekeyableDump`.

    Args:
        url: of the role that owns what was restored.
        connection: of the same.
        binaries: directory of the pg_dump to use; None finds one.
    """

    def __init__(self, url: str, connection: Connection, binaries: Path | None) -> None:
        self._url = url
        self._connection = connection
        self._binaries = binaries
        self._secret = os.urandom(32)

    @property
    def source(self) -> DumpSource:
        """See `RekeyableDump.source`."""
        return PostgresDump(self._url, partial(connect, self._url), self._binaries)

    def prepare(self) -> None:
        """See `RekeyableDump.prepare`."""
        # Alembic and SQLAlchemy take long to import, and a recovery test does not need them.
        from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate  # noqa: PLC0415

        migrate(self._url)

    @without_content
    def read(self, table: EncryptedTable, ring: KeyRing) -> ReadRows:
        """See `RekeyableDump.read`."""
        name = sql.Identifier(table.name.schema, table.name.table)
        label = name.as_string(self._connection)
        others = [str(row[0]) for row in self._connection.execute(_OTHERS, (label, list(table.columns)))]
        query = sql.SQL("SELECT ROW({})::text, {} FROM {}").format(
            sql.SQL(", ").join(map(sql.Identifier, others)),
            sql.SQL(", ").join(map(sql.Identifier, table.columns)),
            name,
        )
        rows = values = failures = total = 0
        with self._connection.transaction(), self._connection.cursor("rows") as cursor:
            cursor.itersize = _ROWS
            for rest, *stored in cursor.execute(query):
                opened = [_opened(ring, value) for value in stored]
                rows += 1
                values += sum(kind == "decrypted" for kind, _ in opened)
                failures += sum(kind == "failed" for kind, _ in opened)
                total = (total + self._number(str(rest), opened)) % _MODULUS
        return ReadRows(rows, values, failures, f"{total:064x}")

    def _number(self, rest: str, opened: list[tuple[str, str]]) -> int:
        """A number for one row, by a secret that ends with us; lengths keep the columns apart."""
        code = hmac.new(self._secret, digestmod=hashlib.sha256)
        for kind, text in (("rest", rest), *opened):
            content = text.encode(errors="surrogatepass")
            code.update(f"{kind} {len(content)} ".encode() + content)
        return int.from_bytes(code.digest())


def _opened(ring: KeyRing, stored: object) -> tuple[str, str]:
    if stored is None:
        return "null", ""
    try:
        return "decrypted", decrypt(ring, str(stored))
    except MalformedCiphertextError:
        return "as it is", str(stored)
    except KeyRotationError:
        return "failed", ""


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
                limits = Limits().in_an_emergency()
                rewriting = PostgresRewriting(connection, partial(connect, url), limits)
                rekeyable = ScratchDump(url, connection, self._binaries)
                content, told = contents.count(connection), installation.description
                inventory = PostgresInventory(connection)
                yield RestoredDump(
                    inventory, rewriting, content, done.failures, done.left_out, told, warning, rekeyable, url
                )
