"""Finds out where the database runs: what a failover changes, and what a copy of the database does not share."""

import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import LiteralString

from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.model.environment import DatabaseServer

# The data directory is shown to superusers and members of pg_read_all_settings alone.
_WHERE: LiteralString = """
SELECT coalesce(host(inet_server_addr()), ''), coalesce(inet_server_port(), 0), current_setting('port'),
       coalesce((SELECT setting FROM pg_settings WHERE name = 'data_directory'), ''), timeline_id
FROM pg_control_checkpoint()
"""


def server_of(connection: Connection, embedded: Path | None = None) -> DatabaseServer:
    """Returns the address as the server itself sees it, and the timeline; a pooler is refused before.

    A server on this machine is known by the machine's name and its data directory, or its port where that is hidden;
    the embedded one by its directory alone, wherever that is: its port, its socket and, in a container, the machine's
    name change as it is started.

    Args:
        embedded: the directory of the home's own server, if that is the database's.
    """
    address, port, own_port, directory, number = map(str, connection.execute(_WHERE).fetchall()[0])
    timeline = int(number)
    if embedded is not None:
        return DatabaseServer(f"the home's own server, inode {embedded.stat().st_ino}", timeline)
    if address and not _is_loopback(address):
        return DatabaseServer(f"{address}:{port}", timeline)
    return DatabaseServer(f"{socket.gethostname()}, {directory or f'port {own_port}'}", timeline)


def _is_loopback(address: str) -> bool:
    with suppress(ValueError):
        return ip_address(address).is_loopback
    return False
