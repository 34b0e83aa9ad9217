"""Names the rows of a relation by the columns of a unique index, never by an encrypted column."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.server.connection import Connection

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
