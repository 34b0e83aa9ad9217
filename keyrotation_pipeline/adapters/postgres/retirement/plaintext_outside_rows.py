"""Looks where the server may still keep plaintext of encrypted columns: statistics, files, the WAL and who keeps it."""

from collections.abc import Collection, Iterator, Sequence
from typing import LiteralString

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import relations
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import unencrypted
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, quoted
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.model.plaintext_outside_rows import ServerFiles, UnchangedFiles
from keyrotation_pipeline.model.tables import EncryptedTable

# A partitioned table's own ANALYZE covers its partitions. Whoever holds the table is not waited for.
_ANALYZE = "ANALYZE (SKIP_LOCKED) {}"

_SAMPLES = """
SELECT count(*) FROM pg_catalog.pg_stats s CROSS JOIN LATERAL unnest(
    coalesce(s.most_common_vals::text::text[], '{{}}') || coalesce(s.histogram_bounds::text::text[], '{{}}')
) AS held (value)
WHERE s.schemaname = {schema} AND s.tablename = {table} AND s.attname = {column} AND {plaintext}
"""

_EXTENDED_SAMPLES = """
SELECT count(*) FROM pg_catalog.pg_stats_ext s
CROSS JOIN LATERAL generate_subscripts(s.most_common_vals, 1) AS item (number)
CROSS JOIN LATERAL (
    SELECT s.most_common_vals[item.number][array_position(s.attnames, {column}::name)] AS value
) AS held
WHERE s.schemaname = {schema} AND s.tablename = {table} AND {column} = ANY (s.attnames) AND {plaintext}
"""

_OF_EXPRESSIONS = """
SELECT DISTINCT 'extended statistics ' || s.stxname FROM pg_statistic_ext s
JOIN pg_depend d ON d.classid = 'pg_statistic_ext'::regclass AND d.objid = s.oid AND d.refobjid = %(oid)s::bigint::oid
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attname = ANY (%(columns)s)
WHERE d.refclassid = 'pg_class'::regclass AND s.stxexprs IS NOT NULL
UNION
SELECT DISTINCT 'index ' || c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refobjid = i.indrelid
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attname = ANY (%(columns)s)
WHERE i.indrelid = %(oid)s::bigint::oid AND i.indexprs IS NOT NULL
UNION
SELECT 'those of ' || relname || ', by row security' FROM pg_class
WHERE oid = %(oid)s::bigint::oid AND row_security_active(oid)
ORDER BY 1
"""

_FILES = """
SELECT oid::bigint FROM pg_class WHERE oid = %(oid)s::bigint::oid
UNION SELECT reltoastrelid::bigint FROM pg_class WHERE oid = %(oid)s::bigint::oid AND reltoastrelid <> 0
UNION SELECT i.indexrelid::bigint FROM pg_index i
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = ANY (%(columns)s)
WHERE i.indrelid = %(oid)s::bigint::oid AND (a.attnum = ANY (i.indkey) OR EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
       AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum))
"""

_NODES = """
SELECT oid::text, format('%%s/%%s', reltablespace, pg_relation_filenode(oid))
FROM pg_class WHERE oid = ANY (%s::bigint[]::oid[]) AND pg_relation_filenode(oid) IS NOT NULL
"""

_CATALOGS: Sequence[tuple[LiteralString, LiteralString]] = (
    ("pg_catalog.pg_statistic", "'pg_catalog.pg_statistic'::regclass"),
    ("pg_catalog.pg_statistic_ext_data", "'pg_catalog.pg_statistic_ext_data'::regclass"),
)


def look(connection: Connection, tables: Sequence[EncryptedTable], known: Collection[int]) -> ServerFiles:
    """See `RetirementEvidence.plaintext_outside_rows`."""
    found, gone = list[tuple[EncryptedTable, Relation]](), list[str]()
    for table in tables:
        try:
            found += ((table, each) for each in relations.tree(connection, table))
        except PreflightError:
            gone.append(f"those of {table.name}, which is not there as it was")
    if any(_holding(connection, found)):
        for _, relation in found:
            if (relation.kind == "p" and not relation.partition) or (relation.is_heap and not relation.partition):
                connection.execute(sql.SQL(_ANALYZE).format(relation.identifier))
    files = tuple(_of_table(connection, *each) for each in found if each[1].is_heap)
    catalogs = tuple(_of_catalog(connection, *each) for each in _CATALOGS)
    oids = {int(oid) for each in (*files, *catalogs) for oid in each.files}.union(known)
    (place,) = connection.execute(
        "SELECT pg_current_wal_insert_lsn()::text, (SELECT redo_lsn::text FROM pg_control_checkpoint()), "
        "current_setting('archive_mode') <> 'off'"
    ).fetchall()
    slots = connection.execute(
        "SELECT slot_name::text, restart_lsn::text FROM pg_replication_slots WHERE restart_lsn IS NOT NULL"
    ).fetchall()
    return ServerFiles(
        statistics=tuple(dict.fromkeys(_holding(connection, found))),
        not_judged=(*gone, *dict.fromkeys(_not_judged(connection, found))),
        files=files,
        catalogs=catalogs,
        nodes=_nodes(connection, oids),
        position=str(place[0]),
        checkpoint=str(place[1]),
        slots={str(name): str(position) for name, position in slots},
        is_archived=place[2] is True,
    )


def _holding(connection: Connection, found: Sequence[tuple[EncryptedTable, Relation]]) -> Iterator[str]:
    """Yields the columns of which the statistics hold plaintext."""
    plaintext = unencrypted(sql.SQL('(held.value COLLATE "C")'))
    for table, relation in found:
        for column in table.begun:
            for query in (_SAMPLES, _EXTENDED_SAMPLES):
                filled = sql.SQL(query).format(
                    schema=sql.Literal(relation.schema),
                    table=sql.Literal(relation.name),
                    column=sql.Literal(column),
                    plaintext=plaintext,
                )
                if connection.execute(filled).fetchone() != (0,):
                    yield f"{relation.label}.{column}"


def _not_judged(connection: Connection, found: Sequence[tuple[EncryptedTable, Relation]]) -> Iterator[str]:
    for table, relation in found:
        yield from (str(name) for (name,) in connection.execute(_OF_EXPRESSIONS, _of(table, relation)).fetchall())


def _of(table: EncryptedTable, relation: Relation) -> dict[str, object]:
    return {"oid": relation.oid, "columns": list(table.begun)}


def _of_table(connection: Connection, table: EncryptedTable, relation: Relation) -> UnchangedFiles:
    oids = [int(str(oid)) for (oid,) in connection.execute(_FILES, _of(table, relation)).fetchall()]
    return _files(connection, quoted(connection, relation.schema, relation.name), relation.oid, oids)


def _of_catalog(connection: Connection, name: str, regclass: LiteralString) -> UnchangedFiles:
    rows = connection.execute(
        sql.SQL("SELECT oid::bigint, reltoastrelid::bigint FROM pg_class WHERE oid = {}").format(sql.SQL(regclass))
    ).fetchall()
    ((oid, toast),) = rows
    return _files(connection, name, int(str(oid)), [int(str(each)) for each in (oid, toast) if each])


def _files(connection: Connection, name: str, oid: int, oids: Sequence[int]) -> UnchangedFiles:
    ((size,),) = connection.execute("SELECT pg_total_relation_size(%s::bigint::oid)", (oid,)).fetchall()
    return UnchangedFiles(name, _nodes(connection, oids), int(str(size)))


def _nodes(connection: Connection, oids: Collection[int]) -> dict[str, str]:
    return {str(oid): str(node) for oid, node in connection.execute(_NODES, (sorted(oids),)).fetchall()}
