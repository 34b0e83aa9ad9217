"""Counts everything that a dump of a database restores: relations, the rows of every table, the large objects.

To plan a query, the server reads the expressions of a table's indexes and statistics, and calls immutable functions in
them whose arguments are constant: as our role, whoever owns them. They may also need the application's search path. So
rows of a table with such functions are counted by COPY, which needs no planning; pg_dump reads tables in the same way.
"""

from collections.abc import Iterator
from typing import Any

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory.foreign_code import foreign_planning
from keyrotation_pipeline.adapters.postgres.inventory.scans import heap_scan
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.model.backups import DatabaseContent, RelationContent, RelationKind
from keyrotation_pipeline.model.tables import TableName

# As in pg_dump: no system schemas, no temporary tables, and no members of extensions.
# Foreign tables have no rows of their own, and recovery tests leave them out.
_RELATIONS = """
SELECT n.nspname, c.relname, c.oid::bigint, c.relkind::text, c.relispopulated,
       EXISTS (SELECT FROM pg_index i JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
               WHERE i.indrelid = c.oid AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
                 AND d.refclassid NOT IN ('pg_class'::regclass, 'pg_constraint'::regclass))
       OR EXISTS (SELECT FROM pg_statistic_ext s
                  JOIN pg_depend d ON d.classid = 'pg_statistic_ext'::regclass AND d.objid = s.oid
                  WHERE s.stxrelid = c.oid AND s.stxexprs IS NOT NULL
                    AND d.refclassid NOT IN ('pg_class'::regclass, 'pg_namespace'::regclass)),
       (SELECT a.attname FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        ORDER BY a.attlen <= 0, a.attlen, a.attnum LIMIT 1)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'v', 'S') AND c.relpersistence <> 't'
  AND left(n.nspname, 3) <> 'pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
"""
# What this role may not read is refused by the count. Of a table that was dropped meanwhile the server says nothing.
_READABLE_TABLES = f"""
SELECT oid, nspname, relname FROM ({_RELATIONS}) AS relation WHERE relkind = 'r'
  AND coalesce(has_table_privilege(oid, 'SELECT'), true)
"""  # noqa: S608  text of our own
_LARGE_OBJECTS = "SELECT count(*) FROM pg_largeobject_metadata"
_KINDS = {
    "r": RelationKind.TABLE,
    "p": RelationKind.PARTITIONED_TABLE,
    "m": RelationKind.MATERIALIZED_VIEW,
    "v": RelationKind.VIEW,
    "S": RelationKind.SEQUENCE,
}


def count(connection: Connection) -> DatabaseContent:
    """Counts everything, in the snapshot of the running transaction, if there is one.

    Raises:
        PreflightError: a table cannot be read.
        BlockedError: another session has locked one.
    """
    ((large_objects,),) = _rows(connection, _LARGE_OBJECTS)
    return DatabaseContent(tuple(_relations(connection)), large_objects)


def lock(connection: Connection) -> tuple[int, ...]:
    """Keeps every table that this role may read from being rewritten until the transaction ends; returns their oids.

    Raises:
        LockNotAvailable: another session has locked one.
        UndefinedTable: one was dropped since the transaction's snapshot.
    """
    tables = _rows(connection, _READABLE_TABLES)
    if tables:
        names = sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(*name)) for _, *name in tables)
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names))
    return tuple(oid for oid, *_ in tables)


def _relations(connection: Connection) -> Iterator[RelationContent]:
    for schema, relation, oid, kind, populated, calls_functions, column in _rows(connection, _RELATIONS):
        name = TableName(schema, relation)
        if kind == "r":
            rows = _count(connection, name, oid, column, calls_functions=calls_functions)
            yield RelationContent(name, RelationKind.TABLE, rows)
        elif kind == "m" and not populated:
            yield RelationContent(name, RelationKind.UNPOPULATED_VIEW)
        else:
            yield RelationContent(name, _KINDS[kind])


def _count(connection: Connection, name: TableName, oid: int, column: str | None, *, calls_functions: bool) -> int:
    """Counts the rows of a table; by COPY where planning a query on it could run code of others.

    Args:
        column: the smallest one, of which each row is copied and discarded; None if the table has none.
        calls_functions: in its indexes or statistics.
    """
    table = sql.Identifier(name.schema, name.table)
    with heap_scan(connection, f"table {name}"):
        if not calls_functions and foreign_planning(connection, oid) is None:
            query = sql.SQL("SELECT count(*) FROM ONLY {}").format(table)
            return int(str(connection.execute(query).fetchall()[0][0]))
        columns = sql.SQL("({})").format(sql.Identifier(column)) if column else sql.SQL("")
        with connection.cursor().copy(sql.SQL("COPY {} {} TO STDOUT").format(table, columns)) as lines:
            # A newline inside a value is written as two other characters.
            return sum(bytes(block).count(b"\n") for block in lines)


def _rows(connection: Connection, query: str) -> list[Any]:
    return connection.execute(query.encode()).fetchall()
