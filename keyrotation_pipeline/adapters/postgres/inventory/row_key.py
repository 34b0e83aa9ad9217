"""Names rows by the columns of a unique index, and reads a table in the order of such a key.

The key is never an encrypted column. Rows are ordered by their key as UTF-8 bytes, so that two databases can be
compared: the order of a type, or of a collation, may differ between two servers.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import places, snapshots
from keyrotation_pipeline.adapters.postgres.inventory.foreign_code import require_own_planning
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.inventory.scans import countable, heap_scan
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.ports.database import KeyedRow

# The key columns of one unique index, the primary key first. `indkey` holds the columns of INCLUDE too, after the key.
# Every row needs exactly one entry, so the index is whole, immediate, and on columns that are never NULL. The equality
# operator is that of the index's operator class, since those of extension types are not in pg_catalog. A key is cast to
# text and back, and a type's owner defines its casts: a type that belongs neither to a superuser nor to our role is
# left out, since its casts would run its owner's code as our role.
_KEY_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), n.nspname, o.oprname
FROM (
    SELECT i.* FROM pg_index i
    WHERE i.indrelid = %(oid)s::bigint::oid AND i.indisunique AND i.indisvalid AND i.indimmediate
      AND i.indpred IS NULL AND i.indexprs IS NULL
      AND NOT EXISTS (
          SELECT FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS key (attnum)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = key.attnum
          JOIN pg_type t ON t.oid = a.atttypid JOIN pg_roles r ON r.oid = t.typowner
          WHERE a.attname = ANY(%(encrypted)s) OR NOT a.attnotnull
             OR NOT (t.oid < 16384 OR r.rolsuper OR r.rolname = current_user))
    ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1
) AS chosen
CROSS JOIN LATERAL unnest((chosen.indkey::int2[])[0:chosen.indnkeyatts - 1],
                          (chosen.indclass::oid[])[0:chosen.indnkeyatts - 1])
           WITH ORDINALITY AS key (attnum, class, place)
JOIN pg_attribute a ON a.attrelid = chosen.indrelid AND a.attnum = key.attnum
JOIN pg_opclass c ON c.oid = key.class
JOIN pg_amop op ON op.amopfamily = c.opcfamily AND op.amoplefttype = c.opcintype AND op.amoprighttype = c.opcintype
    AND op.amopstrategy = 3
JOIN pg_operator o ON o.oid = op.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
ORDER BY key.place
"""


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """One column of a row key, and the operator that compares it."""

    name: str
    type_sql: str
    operator_schema: str
    operator: str


@dataclass(frozen=True, slots=True)
class RowKey:
    """How a relation's rows are named: a JSON array of key columns as text, or without a key the row's `ctid`."""

    columns: tuple[KeyColumn, ...]

    def of(self, alias: str) -> sql.Composable:
        """Returns the key of a row as an SQL expression."""
        if not self.columns:
            return sql.SQL("{}.ctid::text").format(sql.Identifier(alias))
        return key_text(alias, [column.name for column in self.columns])

    def matches(self, alias: str, key: sql.Composable) -> sql.Composable:
        """Returns a condition for the row with this key; the unique index can answer it.

        Args:
            key: an expression for the text that `of` returned.
        """
        if not self.columns:
            return sql.SQL("{}.ctid = {}::tid").format(sql.Identifier(alias), key)
        conditions = [
            sql.SQL("{} OPERATOR({}.{}) ({}::json ->> {})::{}").format(
                sql.Identifier(alias, column.name),
                sql.Identifier(column.operator_schema),
                sql.SQL(column.operator),
                key,
                sql.Literal(number),
                sql.SQL(column.type_sql),
            )
            for number, column in enumerate(self.columns)
        ]
        return sql.SQL(" AND ").join(conditions)


def row_key(connection: Connection, relation: Relation) -> RowKey:
    """Returns the key of a relation: its primary key, or else another unique index without a column that we write."""
    encrypted = relation.written_columns
    rows: list[Any] = connection.execute(_KEY_COLUMNS, {"oid": relation.oid, "encrypted": encrypted}).fetchall()
    return RowKey(tuple(KeyColumn(*row) for row in rows))


# As above: a type that belongs neither to a superuser nor to our role could run code when it is written as text.
_NAMEABLE = """
SELECT count(*) = cardinality(%(names)s::text[])
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_roles r ON r.oid = t.typowner
WHERE a.attrelid = %(oid)s::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = ANY(%(names)s)
  AND NOT a.attname = ANY(%(encrypted)s) AND (t.oid < 16384 OR r.rolsuper OR r.rolname = current_user)
"""


def can_name_rows(connection: Connection, relation: Relation, names: Sequence[str]) -> bool:
    """Returns whether a relation has these columns, that we write none, and none could run code of another role."""
    encrypted = relation.written_columns
    asked = {"oid": relation.oid, "names": list(names), "encrypted": encrypted}
    return connection.execute(_NAMEABLE, asked).fetchone() == (True,)


def key_text(alias: str, names: Sequence[str]) -> sql.Composable:
    """Returns columns of a row as a JSON array of their texts, as an SQL expression."""
    texts = [sql.SQL("{}::text").format(sql.Identifier(alias, name)) for name in names]
    return sql.SQL("json_build_array({})::text").format(sql.SQL(", ").join(texts))


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
            cursor.execute(query)
            snapshots.require_same_heaps(connection, table, heaps)
            for found, *values in cursor:
                at = cast("bytes", found)
                if at < previous:
                    raise PreflightError(f"table {table.name} was not read in the order of its key; report it")
                previous = at
                yield at.decode(), tuple(places.as_bytes(cast("str | bytes | None", each)) for each in values)


def _part(connection: Connection, relation: Relation, key: Sequence[str]) -> sql.Composable:
    if not can_name_rows(connection, relation, key):
        raise PreflightError(
            f"{relation.label} cannot be read by the key ({', '.join(key)}): a column is missing, encrypted, or of a "
            "foreign type; give it the key that it had"
        )
    values = sql.SQL(", ").join(places.value(column) for column in relation.columns)
    return sql.SQL(_ROWS_OF).format(key=key_text("t", key), values=values, relation=relation.identifier)
