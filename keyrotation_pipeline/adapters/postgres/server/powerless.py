"""A scratch server handed over to a role without power, from which no way leads to the superuser."""

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.server.beforehand import Beforehand, create
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.embedded import APPLICATION_DATABASE, EmbeddedServer
from keyrotation_pipeline.errors import HomeError
from keyrotation_pipeline.ports.clock import attempts

RESTORER = "restorer"
# It owns its database, and so what it restores there. It sees all rows, since policies are restored, too.
_ROLE = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION BYPASSRLS"
# The only line: every other login is refused. No password is asked for in a directory that nobody else can enter.
_ACCESS = f"local {APPLICATION_DATABASE} {RESTORER} trust\n"
_CLOSE_SECONDS, _LOOK_SECONDS = 30, 0.02


def hand_over(server: EmbeddedServer, connection: Connection, wanted: Beforehand) -> str:
    """Give the application's database of a new server to the restorer, and shut the superuser out.

    Args:
        connection: the superuser's, to that database, which is empty.
        wanted: what the restorer could not create.

    Returns:
        URL of the restorer.

    Raises:
        HomeError: the superuser can still log in.
    """
    role, database = sql.Identifier(RESTORER), sql.Identifier(APPLICATION_DATABASE)
    connection.execute(sql.SQL("CREATE ROLE {} " + _ROLE).format(role))
    connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, role))
    connection.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(role))
    create(connection, wanted, RESTORER)
    server.write_access(_ACCESS)
    connection.execute("SELECT pg_reload_conf()")
    _require_closed(server)
    return make_conninfo(server.url(APPLICATION_DATABASE), user=RESTORER)


def _require_closed(server: EmbeddedServer) -> None:
    """Wait until the server refuses the superuser: it reads its configuration a moment after it is told to."""
    for _ in attempts(SystemClock(), pause_seconds=_LOOK_SECONDS, patience_seconds=_CLOSE_SECONDS):
        try:
            psycopg.connect(server.url(APPLICATION_DATABASE), connect_timeout=5).close()
        except psycopg.OperationalError as refusal:
            if "pg_hba.conf" in str(refusal):
                return
    raise HomeError("the scratch server does not shut its superuser out; see its log, and run this again")
