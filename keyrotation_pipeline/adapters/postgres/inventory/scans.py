"""Reads a relation from its heap alone, with failures as sentences."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory.foreign_code import require_own_planning
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation, heaps, tree
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, quoted
from keyrotation_pipeline.errors import BlockedError, DatabaseUnavailableError, PreflightError
from keyrotation_pipeline.model.tables import EncryptedTable

# The planner must not answer from a fence (a constraint manually marked valid made a count say 0), nor from an index,
# which may be damaged. Compiling the expressions would cost more than it saves. As hex, bytea inside another type would
# hide its text. Our expressions cost more per row than the planner assumes, so small relations are read in parallel
# too: by default only those of 8 MB.
FROM_THE_HEAP = (
    "SET LOCAL constraint_exclusion = off; SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; "
    "SET LOCAL enable_bitmapscan = off; SET LOCAL jit = off; SET LOCAL bytea_output = 'escape'; "
    "SET LOCAL min_parallel_table_scan_size = '256kB'"
)

# With TOAST, where large values are; but at least so many pages. A foreign table has neither size nor sample.
SAMPLE_BYTES = 64 * 2**20
_LEAST_PAGES = 64
_SHARE = """
SELECT 100 * share
FROM (SELECT oid, pg_relation_size(oid) AS bytes,
             coalesce(pg_relation_size(nullif(reltoastrelid, 0)), 0) AS toast_bytes,
             pg_relation_size(oid) / current_setting('block_size')::int AS pages
      FROM pg_class WHERE oid = %(oid)s::oid AND relkind IN ('r', 'm')) AS measured,
     LATERAL greatest(%(most)s::float8 / nullif(bytes + toast_bytes, 0), %(pages)s::float8 / nullif(pages, 0)) AS share
WHERE share < 1
"""


@contextmanager
def unless_locked(what: str) -> Iterator[None]:
    """Where the size of a relation is asked: the server tells none of one that another session has locked."""
    try:
        yield
    except psycopg.errors.LockNotAvailable:
        raise BlockedError(
            f"{what} is locked by another session; wait until that has ended, then run this again"
        ) from None


_FOREIGN_SERVER = """
SELECT s.srvname::text FROM pg_foreign_table t JOIN pg_foreign_server s ON s.oid = t.ftserver WHERE t.ftrelid = %s::oid
"""


def _server_without_mapping(connection: Connection, oid: int | None) -> str | None:
    """Returns the foreign server of a relation that cannot be read for want of something; None: it has none."""
    row = None if oid is None else connection.execute(_FOREIGN_SERVER, (oid,)).fetchone()
    return None if row is None else str(row[0])


@contextmanager
def heap_scan(connection: Connection, label: str, oid: int | None = None) -> Iterator[None]:
    """Opens a read-only block in which every query scans the heap; the settings end with it, also inside a transaction.

    Args:
        label: the relation's name in messages.
        oid: the relation whose rows are read, if any are.

    Raises:
        BlockedError: another session has locked it.
        PreflightError: it cannot be read, or planning that would run code of another role.
        DatabaseUnavailableError: the connection was lost.
    """
    try:
        # Rolled back: only this restores the settings of a surrounding transaction.
        with connection.transaction(force_rollback=True):
            connection.execute(FROM_THE_HEAP)
            if oid is not None:
                require_own_planning(connection, oid)
            yield
    except psycopg.errors.LockNotAvailable:
        raise BlockedError(f"{label} is locked by another session; run this again when that has ended") from None
    except psycopg.errors.InsufficientPrivilege:
        raise PreflightError(
            f"{label} cannot be read by role {connection.info.user}; GRANT USAGE on its schema and SELECT on it, "
            "and where it has row-level security, give the role BYPASSRLS"
        ) from None
    except psycopg.errors.UndefinedObject as error:
        if (server := _server_without_mapping(connection, oid)) is None:
            raise _unreadable(label, error) from None
        role, far = quoted(connection, connection.info.user), quoted(connection, server)
        raise PreflightError(
            f"foreign table {label} cannot be read by role {connection.info.user}, which has no user mapping; "
            f"CREATE USER MAPPING FOR {role} SERVER {far} OPTIONS (…), or drop the foreign table"
        ) from None
    except psycopg.errors.CharacterNotInRepertoire:
        raise PreflightError(
            f"{label} cannot be read, since a name or text in it is not valid UTF-8 (SQL_ASCII checks none); correct "
            "it, and run this again"
        ) from None
    except psycopg.Error as error:
        if connection.closed:
            raise DatabaseUnavailableError(f"the connection was lost while {label} was read; run this again") from None
        raise _unreadable(label, error) from None


def _unreadable(label: str, error: psycopg.Error) -> PreflightError:
    return PreflightError(
        f"{label} cannot be read (SQLSTATE {error.sqlstate}); see the server's log, and fix it or drop it"
    )


def from_page(first: int) -> sql.Composable:
    """Returns a WHERE that starts a scan at a page; nothing for the first one, so nothing has to be evaluated."""
    return sql.SQL("WHERE ctid >= {}::tid").format(sql.Literal(f"({first},0)")) if first else sql.SQL("")


def between_pages(first: int, end: int) -> sql.Composable:
    """Returns a WHERE that limits a scan to pages from `first` to before `end`."""
    return sql.SQL("WHERE ctid >= {}::tid AND ctid < {}::tid").format(
        sql.Literal(f"({first},0)"), sql.Literal(f"({end},0)")
    )


def of_a_sample(connection: Connection, oid: int, most_bytes: int | None = None, among: int = 1) -> sql.Composable:
    """Returns a clause that samples so much from all over a larger relation, the same pages each time; else none.

    Args:
        most_bytes: None: `SAMPLE_BYTES`.
        among: how many relations share this; of each a page is read.
    """
    most = (most_bytes or SAMPLE_BYTES) / among
    sizes = {"oid": oid, "most": most, "pages": max(1.0, _LEAST_PAGES / among)}
    row = connection.execute(_SHARE, sizes).fetchone()
    share = None if row is None else row[0]
    return sql.SQL("TABLESAMPLE SYSTEM ({}) REPEATABLE (1)").format(share) if share else sql.SQL("")


def readable_tree(connection: Connection, table: EncryptedTable) -> tuple[Relation, ...]:
    """Returns `relations.tree`, with a sentence even for a lock that prevents reading sizes.

    Raises:
        BlockedError: another session has locked a relation of the tree.
        PreflightError: the table, or a declared column, does not exist.
    """
    with heap_scan(connection, f"table {table.name}"):
        return tree(connection, table)


def countable(connection: Connection, table: EncryptedTable) -> tuple[Relation, ...]:
    """Returns the heaps of a declared table, if all of its rows are in heaps.

    Raises:
        PreflightError: the tree holds something else, whose rows a count would miss.
        BlockedError: another session has locked a relation of the tree.
    """
    with heap_scan(connection, f"table {table.name}"):
        return heaps(connection, table)
