"""Connects for a scan, and opens its transactions: read-only, short, and without a setting that outlives them.

So a scan works on a standby and through a transaction pooler, holds no lock for long, and waits for none.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from keyrotation_pipeline.adapters.postgres.server.connection import (
    NETWORK,
    Connection,
    display_name,
    is_direct,
    refusal_of,
)
from keyrotation_pipeline.errors import DatabaseUnavailableError

_APPLICATION_NAME = "keyrotation scan"
_ROLE = "scan-role.sql"
_CONNECT_SECONDS = 10
# row_security off: where a policy would run, an error comes instead. constraint_exclusion: it plans constraints.
# pg_temp last: a pooler's connection may have somebody's temporary tables, which could be named as the catalog's.
_SETTINGS = """
SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY, NOT DEFERRABLE;
SET LOCAL statement_timeout = '10s'; SET LOCAL lock_timeout = '200ms';
SET LOCAL idle_in_transaction_session_timeout = '30s';
SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL row_security = off; SET LOCAL constraint_exclusion = off;
SET LOCAL client_encoding = 'UTF8'; SET LOCAL client_min_messages = error; SET LOCAL quote_all_identifiers = off;
SET LOCAL standard_conforming_strings = on; SET LOCAL jit = off; SET LOCAL max_parallel_workers_per_gather = 0;
"""
_WITH_TRANSACTION_TIMEOUT, _WITH_IDLE_TIMEOUT = 170000, 140000


@contextmanager
def connected(url: str, setting: str) -> Iterator[Connection]:
    """Opens a connection in autocommit mode, also through a pooler, and closes it at the end.

    Args:
        setting: where the URL comes from, in messages.

    Raises:
        DatabaseUnavailableError: no server answers, or it refuses; names host and database, never the password.
    """
    display_name(url, setting)  # refuses anything that is not a connection string
    try:
        there = make_conninfo(url, **(NETWORK | conninfo_to_dict(url)))
        connection = psycopg.connect(
            there, autocommit=True, application_name=_APPLICATION_NAME, connect_timeout=_CONNECT_SECONDS
        )
    except psycopg.OperationalError as error:
        raise refusal_of(error, url, setting, _ROLE) from None
    with connection:
        connection.prepare_threshold = None  # a pooler may give each transaction another server connection
        _prepare(connection, url)
        yield connection


def _prepare(connection: Connection, url: str) -> None:
    """Lets the session be idle while values are classified; of a pooler's, nothing is changed."""
    try:
        with reading(connection):
            may_set = connection.info.server_version >= _WITH_IDLE_TIMEOUT and is_direct(connection)
    except psycopg.errors.ProtocolViolation:
        raise DatabaseUnavailableError(
            f"the pooler before {display_name(url)} allows no transactions (pool_mode = statement); give another "
            "pooler's address, or the server's own"
        ) from None
    if may_set:
        connection.execute("SET idle_session_timeout = 0")


@contextmanager
def reading(connection: Connection) -> Iterator[None]:
    """Opens a read-only transaction, and rolls it back.

    Raises:
        DatabaseUnavailableError: the connection was lost. Other errors of the database are raised as they are.
    """
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(_SETTINGS)
            if connection.info.server_version >= _WITH_TRANSACTION_TIMEOUT:
                connection.execute("SET LOCAL transaction_timeout = 0")
            yield
    except psycopg.OperationalError as error:
        if connection.closed and not isinstance(error, psycopg.errors.ProtocolViolation):
            raise DatabaseUnavailableError("the connection was lost during the scan; run it again") from None
        raise


_REASONS = {
    "55P03": "another session has locked it",
    "57014": "reading took too long",
    "42501": "the role may not read it",
    "42P01": "it was dropped meanwhile",
    "0A000": "the server does not support reading it here",
    "22021": "it has a text that is not valid in the database's encoding",
}


def reason_of(error: psycopg.Error) -> str:
    """Returns why something could not be read; never the server's text, which may hold a part of a row."""
    return _REASONS.get(error.sqlstate or "", f"reading it failed (SQLSTATE {error.sqlstate or 'none'})")
