"""Reads the rows of a table in the order of a key, the same on every server, to compare two databases with each other.

Rows are ordered by their key as UTF-8 bytes: the order of a type, or of a collation, may differ between two servers.
"""

from collections.abc import Generator, Sequence
from typing import cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import places
from keyrotation_pipeline.adapters.postgres.inventory.foreign_code import require_own_planning
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.inventory.row_key import can_name_rows, key_text, row_key
from keyrotation_pipeline.adapters.postgres.inventory.scans import countable, heap_scan
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.ports.database import KeyedRow

# A row may hold megabytes.
_ROWS = 128
# Whoever compares waits for the other server, which sorts too; a larger sort goes to the server's temporary files,
# which get nothing but what is stored anyway. The server's locale decides how a key of type money is written.
_SETTINGS = (
    "SET LOCAL idle_in_transaction_session_timeout = '1h'; SET LOCAL work_mem = '64MB'; SET LOCAL lc_monetary = 'C'"
)
_ROWS_OF = "SELECT convert_to({key}, 'UTF8') AS key, {values} FROM ONLY {relation} AS t"
_COLUMNS = """
SELECT a.attname::text
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
"""


def columns_of(connection: Connection, name: TableName) -> frozenset[str]:
    """Returns the columns of a relation; none: there is no such relation."""
    return frozenset(str(row[0]) for row in connection.execute(_COLUMNS, (name.schema, name.table)).fetchall())


def common_key(connection: Connection, table: EncryptedTable) -> tuple[str, ...]:
    """Returns the columns that identify a row in every heap of a table; empty: none do, or not the same in each.

    Raises:
        PreflightError, BlockedError: as a count does.
    """
    found = {
        tuple(column.name for column in row_key(connection, each).columns) for each in countable(connection, table)
    }
    return next(iter(found)) if len(found) == 1 else ()


def rows_by_key(connection: Connection, table: EncryptedTable, key: Sequence[str]) -> Generator[KeyedRow, None, None]:
    """Yields every row of a table in one snapshot: its key, and the stored value of each declared place.

    Args:
        key: at least one column; two rows may have the same key if no index forbids it.

    Raises:
        PreflightError: the table cannot be read, or not with this key.
        BlockedError: another session has locked it.
    """
    heaps = countable(connection, table)
    if not heaps:
        return
    parts = [_part(connection, each, key) for each in heaps]
    # Sorted at once: the planner would sort each partition, with so much memory for each.
    query = sql.SQL("SELECT * FROM ({} OFFSET 0) AS every ORDER BY 1").format(sql.SQL(" UNION ALL ").join(parts))
    previous = b""
    with heap_scan(connection, f"table {table.name}"):
        require_own_planning(connection, *(each.oid for each in heaps))
        connection.execute(_SETTINGS)
        with connection.cursor("keyed_rows", binary=True) as cursor:
            cursor.itersize = _ROWS
            for found, *values in cursor.execute(query):
                at = cast("bytes", found)
                if at < previous:
                    raise PreflightError(f"table {table.name} was not read in the order of its key; report it")
                previous = at
                yield at.decode(), tuple(places.as_bytes(cast("str | bytes | None", each)) for each in values)


def _part(connection: Connection, relation: Relation, key: Sequence[str]) -> sql.Composable:
    if not can_name_rows(connection, relation, key):
        raise PreflightError(
            f"{relation.label} cannot be read by the key ({', '.join(key)}): a column is missing, encrypted, or of a "
            "type whose owner could run code; give it the key that it had, of a type of PostgreSQL's own"
        )
    values = sql.SQL(", ").join(places.value(column) for column in relation.columns)
    return sql.SQL(_ROWS_OF).format(key=key_text("t", key), values=values, relation=relation.identifier)
