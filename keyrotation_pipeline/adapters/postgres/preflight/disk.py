"""Measures the server's disk, where it is this host's."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from keyrotation_pipeline.adapters.postgres.server.connection import Connection, quoted
from keyrotation_pipeline.model.surroundings import Disk, UnseenDisk

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_IDENTIFIER_BYTES = 8

_IN_OTHER_TABLESPACES = """
SELECT EXISTS (SELECT FROM pg_class WHERE oid = ANY(%s::oid[]) AND reltablespace <> 0)
    OR EXISTS (SELECT FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace
               WHERE d.datname = current_database() AND t.spcname <> 'pg_default')
"""

# The setting is NULL for a role that may not see it.
_DIRECTORY = """
SELECT (SELECT setting FROM pg_settings WHERE name = 'data_directory'), system_identifier FROM pg_control_system()
"""


def disk_of(connection: Connection, oids: Sequence[int]) -> Disk | UnseenDisk:
    """Returns the server's disk, if it is this host's: the data directory here must have the server's identifier."""
    host = connection.info.host
    if not host.startswith("/") and host not in _LOOPBACK:
        return UnseenDisk(f"the server is on {host}")
    if connection.execute(_IN_OTHER_TABLESPACES, (list(oids),)).fetchone() == (True,):
        return UnseenDisk("tables are in other tablespaces than the default one")
    # A server's working directory is its data directory; it may use a path for it that is valid only in its own
    # process.
    own = Path(f"/proc/{connection.info.backend_pid}/cwd")
    ((named, identifier),) = cast("list[tuple[str | None, int]]", connection.execute(_DIRECTORY).fetchall())
    directory = Path(named) if named is not None and Path(named).is_dir() else own.resolve()
    try:
        with (directory / "global" / "pg_control").open("rb") as control:
            if int.from_bytes(control.read(_IDENTIFIER_BYTES), sys.byteorder) != identifier:
                return UnseenDisk("the address leads to a server whose data directory is not on this host")
        # The WAL may be on another disk: the smaller free space counts.
        free = min(shutil.disk_usage(place).free for place in (directory, directory / "pg_wal"))
    except OSError:
        role = quoted(connection, connection.info.user)
        if named is None:
            return UnseenDisk(
                "the role may not see where the server's data directory is", f"GRANT pg_read_all_settings TO {role}"
            )
        return UnseenDisk(f"the server's data directory {named} cannot be read from here, or is not on this host")
    return Disk(str(directory), free)
