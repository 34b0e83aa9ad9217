"""Runs ephemeral servers for recovery tests, rehearsals and re-encrypted backups; nothing of them remains."""

import hashlib
import hmac
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.own_schema import DEFAULT, with_schema
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.server_errors import AGAIN, without_content
from keyrotation_pipeline.adapters.postgres.inventory import places, relations, retired_signing_keys
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.postgres.server.dump import PostgresDump
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
from keyrotation_pipeline.adapters.postgres.server.programs import Installation, for_dumps_of
from keyrotation_pipeline.adapters.postgres.server.restore import LONGEST_RESTORE_SECONDS
from keyrotation_pipeline.adapters.postgres.server.restore_plan import BY_SUPERUSER
from keyrotation_pipeline.adapters.postgres.server.restored_copy import Target, restored_copy
from keyrotation_pipeline.adapters.postgres.server.restoring_role import RestoringRole
from keyrotation_pipeline.adapters.process import die_with_parent
from keyrotation_pipeline.adapters.secret_directories import held
from keyrotation_pipeline.errors import HomeError
from keyrotation_pipeline.fieldcrypto.arrays import array_text
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, Defect
from keyrotation_pipeline.fieldcrypto.source_keys import opener_in
from keyrotation_pipeline.model.backups import DatabaseCopy
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.backups import DumpSource, ReadRows, RecoveryKey, RestoredDump
from keyrotation_pipeline.ports.clock import attempts

# The name of every restored database.
DATABASE = "restored"
# Immediate shutdown: the server ends its children at once and writes nothing more.
_SIGNAL = "QUIT"
# A dump of it locks all tables at once; and the host of a test may have little memory.
_ALWAYS = (
    "-c", "max_locks_per_transaction=1024", "-c", "shared_buffers=48MB", "-c", "maintenance_work_mem=64MB",
)  # fmt: skip
_NOTHING_IS_KEPT = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")
_END_SECONDS = 30
_STATUS_LINE = 7
_NAME_BYTES = 8
_CLOSE_SECONDS, _LOOK_SECONDS = 30, 0.02


class EphemeralServer(EmbeddedServer):
    """An `EmbeddedServer` of this process alone. Started directly, since `pg_ctl` would detach it.

    Args:
        durable: it syncs to disk, although nothing of it remains, so that durations are realistic.
    """

    INITDB = ("--no-sync",)
    DATABASES = ()

    def __init__(self, directory: Path, installation: Installation, *, durable: bool = False) -> None:
        super().__init__(directory, installation)
        # Not one of the roles that a dump names: what belongs to a superuser there belongs to nobody here.
        self.superuser = f"scratch_{secrets.token_hex(_NAME_BYTES)}"
        self._options = () if durable else _NOTHING_IS_KEPT
        self._process: subprocess.Popen[bytes] | None = None

    def _launch(self) -> bool:
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        with ExitStack() as stack:
            directory, descriptors = stack.enter_context(self._account.reaching(self.directory))
            log = stack.enter_context((self.directory / "log").open("ab"))
            self._configure(directory)
            command = [
                str(self._installation.binaries / "postgres"),
                "-D",
                str(directory / "data"),
                *_ALWAYS,
                *self._options,
            ]
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
        # The server writes this file line by line while it starts; the last line is its status.
        try:
            status = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return [line.strip() for line in status[_STATUS_LINE:]] == ["ready"] and super()._answers()

    def end(self) -> None:
        """Ends it at once, with all its sessions; leaving the context afterwards works as usual."""
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


# How many rows to read at a time: a row may hold megabytes.
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
        url: of the role that owns the restored objects.
        connection: a connection of that role.
        binaries: directory of the pg_dump to use; None finds one.
    """

    def __init__(self, url: str, connection: Connection, binaries: Path | None) -> None:
        self._url = url
        self._connection = connection
        self._binaries = binaries
        self._secret = os.urandom(32)
        self._signing_keys: tuple[KeyVersion, ...] | None = None

    def source(self, ring: KeyRing) -> DumpSource:
        """See `RekeyableDump.source`."""
        return PostgresDump(self._url, partial(connect, self._url), self._binaries, lambda: ring)

    def prepare(self) -> None:
        """See `RekeyableDump.prepare`."""
        # Alembic and SQLAlchemy take long to import, and a recovery test does not need them.
        from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate  # noqa: PLC0415

        migrate(self._url)
        self._signing_keys = retired_signing_keys.held(self._connection)

    def clean_up(self) -> None:
        """See `RekeyableDump.clean_up`."""
        retired_signing_keys.keep_only(self._connection, self._signing_keys)

    @without_content(AGAIN)
    def read(self, table: EncryptedTable, ring: KeyRing) -> ReadRows:
        """See `RekeyableDump.read`."""
        name = sql.Identifier(table.name.schema, table.name.table)
        label = name.as_string(self._connection)
        columns = relations.root(relations.tree(self._connection, table), table).columns
        written = [*table.stored_columns, *table.index_columns]
        others = [str(row[0]) for row in self._connection.execute(_OTHERS, (label, written))]
        documents = [[column for _, column in each] for each in places.by_column(columns) if each[0][1].place.path]
        query = sql.SQL("SELECT ROW({})::text, {} FROM {}").format(
            sql.SQL(", ").join([*map(sql.Identifier, others), *map(places.without_values, documents)]),
            sql.SQL(", ").join(map(places.value, columns)),
            name,
        )
        rows = values = failures = total = 0
        plaintext = partial(format_of(table.format).plaintext, ring)
        readers = [
            partial(
                _opened,
                partial(plaintext, label=table.label(place.name)),
                opener_in(ring, place.form, place.source_key) if place.source else None,
            )
            for place in (each.place for each in columns)
        ]
        with self._connection.transaction(), self._connection.cursor("rows") as cursor:
            cursor.itersize = _ROWS
            for rest, *stored in cursor.execute(query):
                opened = [
                    read(value)
                    for cell, column, read in zip(stored, columns, readers, strict=True)
                    for value in (_elements(cell) if column.place.elements else [cell])
                ]
                rows += 1
                values += sum(kind == "decrypted" for kind, _ in opened)
                failures += sum(kind == "failed" for kind, _ in opened)
                total = (total + self._number(str(rest), opened)) % _MODULUS
        return ReadRows(rows, values, failures, f"{total:064x}")

    def _number(self, rest: str, opened: list[tuple[str, bytes]]) -> int:
        """Returns a number for one row, by a secret that ends with this process; lengths separate the columns."""
        code = hmac.new(self._secret, digestmod=hashlib.sha256)
        for kind, content in (("rest", rest.encode(errors="surrogatepass")), *opened):
            code.update(f"{kind} {len(content)} ".encode() + content)
        return int.from_bytes(code.digest())


def _elements(stored: object) -> list[object]:
    """Returns the elements of an array, and its shape, which is not encrypted."""
    if stored is None:
        return [None]
    array = array_text(str(stored).encode())
    return [b"".join(array.parts), *array.elements]


def _opened(
    plaintext: Callable[[bytes], bytes | Defect], former: Callable[[bytes], bytes] | None, stored: object
) -> tuple[str, bytes]:
    if stored is None:
        return "null", b""
    value = stored if isinstance(stored, bytes) else str(stored).encode(errors="surrogatepass")
    opened = plaintext(value)
    if not isinstance(opened, Defect):
        return "decrypted", opened
    if opened != NOT_A_VALUE:
        return "failed", b""
    if former is None or not value:
        return "as it is", value
    try:
        return "decrypted", former(value)
    except ClosedError:
        return "failed", b""


class ScratchServers:
    """`DumpRestorer` over servers of our own.

    Args:
        directory: where they live, one test at a time: leftovers there are wiped at the start.
        binaries: directory of the PostgreSQL to use; None finds one that fits the dump.
        extensions: additional ones that the superuser creates there.
        longest_seconds: limit for restoring a dump, and for any one statement afterwards.
        schema: of the home whose dumps these are.
    """

    def __init__(
        self,
        directory: Path,
        binaries: Path | None,
        extensions: Sequence[str] = (),
        longest_seconds: float = LONGEST_RESTORE_SECONDS,
        schema: str = DEFAULT,
    ) -> None:
        self._schema = schema
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
        installation, warning = for_dumps_of(self._binaries, dump.server_major)
        with (
            tempfile.TemporaryDirectory(dir=self._directory, prefix="server-") as home,
            EphemeralServer(Path(home) / "postgres", installation, durable=durable) as server,
        ):
            target = Target(
                admin=with_schema(server.url("postgres"), self._schema),
                description=installation.description,
                binaries=self._binaries,
                by_superuser=self._allowed,
                longest_seconds=self._longest_seconds,
                # Nobody else works there, so no throttling.
                limits=Limits().in_an_emergency(),
                warning=warning,
                # Like the role of a rotation, which a rehearsal runs there; our own sessions are the only others.
                attributes="BYPASSRLS IN ROLE pg_read_all_stats",
                is_scratch=True,
                lock=partial(lock_out, server),
                rekeyable=partial(ScratchDump, binaries=self._binaries),
            )
            with restored_copy(target, DATABASE, dump, file, key) as restored:
                yield restored


def lock_out(server: EphemeralServer) -> None:
    """Refuses every further login but the restoring role's, the superuser's too.

    Raises:
        HomeError: the superuser can still log in.
    """
    # It needs no password, in a directory that nobody else can enter.
    server.write_access(f"local {DATABASE} {RestoringRole.of(DATABASE).name} trust\n")
    with suppress(psycopg.OperationalError), psycopg.connect(server.url("postgres")) as superuser:
        superuser.execute("SELECT pg_reload_conf()")
    # It reloads its configuration a moment after the signal.
    for _ in attempts(SystemClock(), pause_seconds=_LOOK_SECONDS, patience_seconds=_CLOSE_SECONDS):
        try:
            psycopg.connect(server.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError as refusal:
            if "pg_hba.conf" in str(refusal):
                return
    raise HomeError("the scratch server does not lock its superuser out; see its log, and run this again")
