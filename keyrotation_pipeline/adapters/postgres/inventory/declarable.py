"""Which columns with encrypted values can be declared in `[[tables]]`: `init` writes those there."""

from collections import defaultdict
from collections.abc import Sequence

from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn, TableName

# The table that a partition or an inheritance child belongs to, if the column is a text column of an ordinary table.
_DECLARABLE = """
WITH RECURSIVE up(oid, depth) AS (
    SELECT c.oid, 0 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND c.relkind = 'r'
    UNION ALL
    SELECT i.inhparent, up.depth + 1 FROM up JOIN pg_inherits i ON i.inhrelid = up.oid
    JOIN pg_attribute a ON a.attrelid = i.inhparent AND a.attname = %(column)s AND NOT a.attisdropped
), base(typ) AS (
    SELECT a.atttypid FROM up JOIN pg_attribute a ON a.attrelid = up.oid AND a.attname = %(column)s WHERE up.depth = 0
    UNION ALL
    SELECT t.typbasetype FROM base JOIN pg_type t ON t.oid = base.typ WHERE t.typtype = 'd'
)
SELECT n.nspname::text, c.relname::text
FROM up JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE EXISTS (SELECT FROM base WHERE base.typ IN ('text'::regtype, 'varchar'::regtype))
ORDER BY up.depth DESC LIMIT 1
"""


def declarable(
    connection: Connection, findings: Sequence[FoundColumn]
) -> tuple[tuple[EncryptedTable, ...], tuple[FoundColumn, ...]]:
    """Divide findings into tables with the columns to declare, and findings that cannot be declared."""
    columns: defaultdict[TableName, list[str]] = defaultdict(list)
    rest = []
    for finding in findings:
        table = _table_of(connection, finding) if finding.values else None
        if table is None:
            rest.append(finding)
        elif finding.column not in columns[table]:
            columns[table].append(finding.column)
    return tuple(EncryptedTable(name, tuple(named)) for name, named in sorted(columns.items())), tuple(rest)


def _table_of(connection: Connection, finding: FoundColumn) -> TableName | None:
    name = TableName.parse(finding.relation)
    parameters = {"schema": name.schema, "table": name.table, "column": finding.column}
    row = connection.execute(_DECLARABLE, parameters).fetchone()
    # The file names tables without quotes, so a name with a dot cannot be written there.
    if row is None or any("." in str(part) for part in row):
        return None
    return TableName(str(row[0]), str(row[1]))
