"""What surrounds the tables: the disk, where it can be seen from this host; WAL and who keeps it; standbys; the log."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from keyrotation_pipeline.adapters.postgres.inventory.scans import heap_scan, readable_tree
from keyrotation_pipeline.adapters.postgres.preflight.subject import fatal
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, PreflightError
from keyrotation_pipeline.model.tables import Disk, EncryptedTable, Problem, Standby, Surroundings, Wal

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_IDENTIFIER_BYTES = 8

_SIZE = "SELECT coalesce(sum(pg_table_size(oid)), 0)::bigint FROM pg_class WHERE oid = ANY(%s::oid[]) AND relkind = 'r'"

_IN_OTHER_TABLESPACES = """
SELECT EXISTS (SELECT FROM pg_class WHERE oid = ANY(%s::oid[]) AND reltablespace <> 0)
    OR EXISTS (SELECT FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace
               WHERE d.datname = current_database() AND t.spcname <> 'pg_default')
"""

# No row for a role that may not see the setting.
_DIRECTORY = """
SELECT setting, (SELECT system_identifier FROM pg_control_system()) FROM pg_settings WHERE name = 'data_directory'
"""

_WAL = """
SELECT pg_size_bytes(current_setting('max_wal_size')),
       (SELECT current_setting('archive_mode') <> 'off' AND last_failed_time > coalesce(last_archived_time, '-infinity')
        FROM pg_stat_archiver),
       (SELECT coalesce(array_agg(slot_name::text ORDER BY slot_name), '{}') FROM pg_replication_slots WHERE NOT active)
"""

_STANDBYS = """
SELECT coalesce(nullif(application_name, ''), 'unnamed'), extract(epoch FROM replay_lag)::float8
FROM pg_stat_replication ORDER BY 1
"""


def surroundings(connection: Connection, tables: Sequence[EncryptedTable]) -> Surroundings:
    """What is around these tables now.

    Raises:
        PreflightError, BlockedError: a table cannot be read.
    """
    oids = [relation.oid for table in tables for relation in readable_tree(connection, table)]
    with heap_scan(connection, "the declared tables"):
        (size,) = cast("tuple[int]", connection.execute(_SIZE, (oids,)).fetchone())
    standbys = connection.execute(_STANDBYS).fetchall()
    return Surroundings(
        size,
        _disk(connection, oids),
        _wal(connection),
        tuple(Standby(str(name), None if late is None else float(str(late))) for name, late in standbys),
        _prints_rows(connection),
    )


def too_small(connection: Connection, tables: Sequence[EncryptedTable]) -> Iterator[Problem]:
    """A disk that is seen, and too small for what the tables grow by, is no place to begin."""
    try:
        seen = surroundings(connection, tables)
    except (PreflightError, BlockedError):
        return  # a table that cannot be read is told of elsewhere
    if seen.disk is not None and seen.disk.free_bytes < seen.growth_bytes:
        yield fatal(
            f"the disk of {seen.disk.directory} has {seen.disk.free_bytes / 2**20:,.0f} MiB free, and the tables grow "
            f"by about {seen.growth_bytes / 2**20:,.0f} MiB; make room"
        )


def _disk(connection: Connection, oids: Sequence[int]) -> Disk | None:
    """The server's disk, if it is this host's: the data directory here must have the server's own identifier."""
    host = connection.info.host
    if not host.startswith("/") and host not in _LOOPBACK:
        return None
    row = connection.execute(_DIRECTORY).fetchone()
    if row is None or connection.execute(_IN_OTHER_TABLESPACES, (list(oids),)).fetchone() == (True,):
        return None
    # A server runs in its data directory, and may know that by a name that is good in its own process only.
    named, own = Path(str(row[0])), Path(f"/proc/{connection.info.backend_pid}/cwd")
    directory, identifier = named if named.is_dir() else own.resolve(), int(str(row[1]))
    try:
        with (directory / "global" / "pg_control").open("rb") as control:
            if int.from_bytes(control.read(_IDENTIFIER_BYTES), sys.byteorder) != identifier:
                return None
        # The WAL may lie on another disk: the smaller room counts.
        free = min(shutil.disk_usage(place).free for place in (directory, directory / "pg_wal"))
    except OSError:
        return None
    return Disk(str(directory), free)


def _wal(connection: Connection) -> Wal:
    size, failing, slots = connection.execute(_WAL).fetchone() or (0, False, [])
    kept_by = ["archiving, whose last attempt failed"] if failing else []
    kept_by += [f"replication slot {slot}, which nobody reads" for slot in cast("list[str]", slots)]
    return Wal(int(str(size)), tuple(kept_by))


def _prints_rows(connection: Connection) -> bool:
    row = connection.execute("SELECT current_setting('log_error_verbosity') <> 'terse'").fetchone()
    return row == (True,)
