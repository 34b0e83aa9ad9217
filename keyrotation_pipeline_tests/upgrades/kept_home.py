"""A home and its database as one small file, and both again as they were: the same server, as far as anybody can see.

The audit names its server by the system identifier, and remembers transaction ids and positions in the WAL. A revived
server therefore gets all three of the one that was kept. What officers sign names the key store by its path, so a kept
folder is always at the same one, and one process at a time has it.
"""

import fcntl
import io
import json
import re
import shutil
import tarfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from keyrotation_pipeline_tests.servers import Server, discard, start_server

HOMES = Path(__file__).parent / "homes"
DATABASE = "clinic"
_PLACE = Path("/tmp/keyrotation-kept-homes")
_DUMP, _SERVER, _FOLDER = "database.dump", "server.json", "folder"
# The first field of pg_control.
_IDENTIFIER_BYTES = 8


@dataclass(frozen=True, slots=True)
class KeptServer:
    """What a revived server must have in common with the kept one.

    Args:
        system_identifier: of the cluster.
        next_xid: no transaction of the kept one had a higher id.
        wal_file: the name of its last WAL segment.
    """

    system_identifier: int
    next_xid: int
    wal_file: str


def keep(server: Server, folder: Path, file: Path) -> None:
    """Writes a folder with its home, and the database that it is of."""
    with psycopg.connect(server.url(DATABASE), autocommit=True) as connection:
        row = connection.execute(
            "SELECT (SELECT system_identifier FROM pg_control_system()), pg_snapshot_xmax(pg_current_snapshot())::text,"
            " pg_walfile_name(pg_current_wal_insert_lsn())"
        ).fetchone()
    assert row is not None
    kept = {"system_identifier": int(row[0]), "next_xid": int(row[1]), "wal_file": str(row[2])}
    dump = server.directory / _DUMP
    server.run("pg_dump", "-h", str(server.directory), "-U", "postgres", "-Fc", "-Z0", "-f", str(dump), DATABASE)
    with tarfile.open(file, "w:xz") as archive:
        _add(archive, _SERVER, json.dumps(kept).encode())
        _add(archive, _DUMP, dump.read_bytes())
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                name = f"{_FOLDER}/{path.relative_to(folder)}"
                _add(archive, name, path.read_bytes(), path.stat().st_mode & 0o777)
    dump.unlink()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o600) -> None:
    """Without times and owners, so that a file differs only where its content does."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


@contextmanager
def folder_of(file: Path) -> Iterator[Path]:
    """The folder that a file keeps, at first empty; removed afterwards."""
    name = f"{file.parent.name}-{file.name.removesuffix('.tar.xz')}"
    _PLACE.mkdir(exist_ok=True)
    with (_PLACE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = _PLACE / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


@contextmanager
def revived(file: Path, folder: Path) -> Iterator[Server]:
    """A running server with the kept database, and in `folder` what was kept of it."""
    server = start_server()
    try:
        dump = server.directory / _DUMP
        with tarfile.open(file) as archive:
            _become(server, KeptServer(**json.loads(_content(archive, _SERVER))))
            dump.write_bytes(_content(archive, _DUMP))
            dump.chmod(0o644)
            for entry in archive:
                if entry.name.startswith(f"{_FOLDER}/"):
                    path = folder / entry.name.removeprefix(f"{_FOLDER}/")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(_content(archive, entry.name))
                    path.chmod(entry.mode)
        for path in folder.rglob("*"):
            if path.is_dir():
                path.chmod(0o700)
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {DATABASE}")
        server.run("pg_restore", "-h", str(server.directory), "-U", "postgres", "-d", DATABASE, "-e", str(dump))
        yield server
    finally:
        discard(server)


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def _become(server: Server, kept: KeptServer) -> None:
    """Gives a fresh cluster the identity of the kept one; pg_resetwal computes the checksum of pg_control again."""
    server.stop("fast")
    control = server.directory / "data" / "global" / "pg_control"
    content = control.read_bytes()
    with control.open("r+b") as file:
        file.write(kept.system_identifier.to_bytes(_IDENTIFIER_BYTES, "little"))
        file.write(content[_IDENTIFIER_BYTES:])
    server.run(
        "pg_resetwal", "-f", "-x", str(kept.next_xid + 1), "-l", kept.wal_file, "-D", str(server.directory / "data")
    )
    server.start()
    with psycopg.connect(server.url()) as connection:
        found = connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()
    assert found == (kept.system_identifier,)


def schema_of(server: Server, database: str) -> str:
    """The schema `keyrotation` as SQL, without what pg_dump writes anew each time."""
    dumped = server.directory / "schema.sql"
    server.run(
        "pg_dump", "-h", str(server.directory), "-U", "postgres", "-s", "-n", "keyrotation", "-f", str(dumped), database
    )
    return re.sub(r"(?m)^(\\(un)?restrict .*|--.*)$", "", dumped.read_text())


def version_of_this() -> str:
    """The version that this source makes homes of."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    return str(tomllib.loads(project.read_text())["project"]["version"])
