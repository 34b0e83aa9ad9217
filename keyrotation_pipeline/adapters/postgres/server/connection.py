"""Connections to the application's database, with the settings without which a count or a write may lie."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import cast

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from keyrotation_pipeline.adapters.postgres.server.connection_refusal import display_name, refusal_of
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.model.audit import CLOCKS_DIFFER_BY
from keyrotation_pipeline.ports.clock import Clock

APPLICATION_NAME = "keyrotation"

# A role or database may set any of these to something else; everything that we rely on is set here.
# row_security off: under FORCE ROW LEVEL SECURITY a count is silently short; off turns that into an error.
# keyrotation.engine: triggers with the clause that the pre-flight prints stay quiet for our writes.
# Encoding, styles, quoting and search path decide how values, times and definitions are written: a fence, say, counts
# only if its definition reads as we wrote it.
_PINNED = {
    "row_security": "off",
    "idle_in_transaction_session_timeout": "60s",
    "lock_timeout": "1s",
    "statement_timeout": "0",
    "default_transaction_isolation": "read committed",
    "client_min_messages": "warning",
    "keyrotation.engine": "on",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "search_path": "pg_catalog",
    # A host that vanishes keeps its locks and its snapshot no longer than this. The same is true over TCP of a process
    # that is frozen while the server waits to send. Without, it is hours, or as long as the process is frozen.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30s",
}
# The same of our side, for a server that vanishes (milliseconds); what the connection string says comes first.
_NETWORK = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000}
# Not every version has these: a session of ours may be idle, or in a transaction, for as long as a long step takes.
# And a commit of ours is on disk when it returns; stronger settings than "on" stay.
_PINNED_WHERE_KNOWN = """
SELECT pg_catalog.set_config(name, CASE name WHEN 'synchronous_commit' THEN 'on' ELSE '0' END, false)
FROM pg_catalog.pg_settings
WHERE name IN ('idle_session_timeout', 'transaction_timeout') OR name = 'synchronous_commit' AND setting = 'off'
"""
SESSION_SETTINGS = "; ".join(f"SET {name} = '{value}'" for name, value in _PINNED.items()) + ";" + _PINNED_WHERE_KNOWN

Connection = psycopg.Connection[tuple[object, ...]]


def connect(url: str) -> "psycopg.Connection[tuple[object, ...]]":
    """Open a connection in autocommit mode.

    Args:
        url: libpq connection string or URL; must reach the server itself, not a pooler.

    Raises:
        PreflightError: a pooler answers. Nothing was set: it would give our settings to the application.
        DatabaseUnavailableError: no server answers, or it refuses; names host and database, never the password.
    """
    with opening(url) as connection:
        return connection


@contextmanager
def opening(url: str) -> Iterator[Connection]:
    """As `connect`; what is asked inside goes by the transaction that sets the session up. Closed if it fails."""
    display_name(url)  # whatever is no connection string is refused here
    try:
        with ExitStack() as unless_kept:
            there = make_conninfo(url, **(_NETWORK | conninfo_to_dict(url)))
            connection = psycopg.connect(there, autocommit=True, application_name=APPLICATION_NAME, connect_timeout=10)
            unless_kept.callback(connection.close)
            with connection.transaction():
                _require_direct(connection, url)
                connection.execute(SESSION_SETTINGS.encode())
                yield connection
            unless_kept.pop_all()
    except psycopg.errors.ProtocolViolation:  # that is how a pooler by statements refuses a transaction
        raise _pooled(url) from None
    except psycopg.OperationalError as error:
        raise refusal_of(error, url) from None


def is_direct(connection: Connection) -> bool:
    """Whether the process that answered the login is the one that executes statements.

    A pooler answers the login itself, with a process id of its own (PostgreSQL protocol, BackendKeyData). The search
    path is still what role and database set, so the function is named with its schema.
    """
    return connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone() == (connection.info.backend_pid,)


def _require_direct(connection: Connection, url: str) -> None:
    if not is_direct(connection):
        raise _pooled(url)


def _pooled(url: str) -> PreflightError:
    return PreflightError(
        f"the connection to {display_name(url)} goes through a pooler, where session settings and locks may not "
        "hold; give the server's own address as [database] url"
    )


def require_same_time(connection: Connection, clock: Clock) -> None:
    """Refuse a host whose clock is not the server's, since events of several hosts stand in order of time.

    Raises:
        PreflightError: says by how much they differ.
    """
    before = clock.now()
    there = cast("datetime", connection.execute("SELECT clock_timestamp()").fetchall()[0][0])
    away = max(before - there, there - clock.now())
    if away > CLOCKS_DIFFER_BY:
        raise PreflightError(
            f"the clock of this host and that of {display_name(connection.info.dsn)} differ by "
            f"{away.total_seconds():,.0f} seconds; set the wrong one right (NTP), then run this again"
        )
