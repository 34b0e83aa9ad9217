"""Lists the relations that a scan reads, with their columns; and what it does not look at, with the reason."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory.foreign_code import planned_functions
from keyrotation_pipeline.adapters.postgres.ledger.schema import OWN_TABLES
from keyrotation_pipeline.adapters.postgres.scan.types import Reader, load_types, readers_of
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.scan.report import NotLookedAt


@dataclass(frozen=True, slots=True)
class Column:
    """A column that can hold text or bytes.

    Args:
        type: as ``format_type()`` writes it.
        base: of a domain the type that it stands for in the end, without a length; else the same as `type`.
    """

    name: str
    type: str
    base: str
    readers: tuple[Reader, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table or materialized view, or a partitioned table as a whole.

    Args:
        label: ``schema.name``, quoted where needed.
        heaps: the oids and names of the relations that hold its rows: itself, or some of its partitions.
    """

    label: str
    heaps: tuple[tuple[int, sql.Identifier], ...]
    columns: tuple[Column, ...]


# Of a partitioned table so many partitions are read, spread over all of them.
MOST_PARTITIONS = 32

# Partitions come with their root, however deep. For partitions and foreign tables nothing but their own rights counts.
_RELATIONS = own("""
WITH RECURSIVE root(oid, root) AS (
    SELECT oid, oid FROM pg_class WHERE NOT relispartition
    UNION ALL
    SELECT i.inhrelid, root.root FROM root JOIN pg_inherits i ON i.inhparent = root.oid
    JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relispartition
)
SELECT c.oid::bigint, root.root::bigint, n.nspname::text, c.relname::text,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relkind::text,
       CASE WHEN c.relkind = 'f' THEN 'a foreign table: its rows are in another place'
            WHEN c.relkind = 'v' THEN 'a view: reading it would run what it is defined by'
            WHEN NOT c.relispopulated THEN 'a materialized view that was never filled'
            WHEN NOT has_schema_privilege(n.oid, 'USAGE') THEN 'the role has no USAGE on its schema'
            WHEN NOT has_any_column_privilege(c.oid, 'SELECT') AND c.relkind <> 'p'
                THEN 'the role may not read it: GRANT SELECT'
            WHEN row_security_active(c.oid)
                THEN 'row-level security applies to the role, which needs BYPASSRLS to read it'
            WHEN c.relpersistence = 'u' AND pg_is_in_recovery() THEN 'unlogged: a standby does not have its rows'
            WHEN c.relkind <> 'p' AND coalesce(m.amname, '') <> 'heap' THEN 'its access method is not heap' END
FROM root JOIN pg_class c ON c.oid = root.oid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_am m ON m.oid = c.relam
WHERE c.relkind IN ('r', 'p', 'm', 'f', 'v') AND c.relpersistence <> 't' AND c.oid >= 16384
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND NOT (c.relname = ANY(%(own)s) AND (n.nspname = 'keyrotation' OR 2 = (
      SELECT count(*) FROM pg_class home
      WHERE home.relnamespace = n.oid AND home.relname IN ('audit_events', 'audit_head'))))
  AND (%(schemas)s::text[] IS NULL OR n.nspname = ANY(%(schemas)s))
ORDER BY n.nspname, c.relname
""")

# A generated column that is not stored is computed when it is read.
_COLUMNS = """
SELECT a.attrelid::bigint, a.attname::text, a.atttypid::bigint, format_type(a.atttypid, a.atttypmod),
       (WITH RECURSIVE base(oid, kind, stands_for) AS (
            SELECT oid, typtype, typbasetype FROM pg_type WHERE oid = a.atttypid
            UNION ALL SELECT t.oid, t.typtype, t.typbasetype FROM base JOIN pg_type t ON t.oid = base.stands_for)
        SELECT format_type(oid, NULL) FROM base WHERE kind <> 'd'),
       CASE WHEN a.attgenerated NOT IN ('', 's') THEN 'a generated column: reading it would compute it'
            WHEN NOT has_column_privilege(a.attrelid, a.attnum, 'SELECT') THEN 'the role may not read this column' END
FROM pg_attribute a
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

_LARGE_OBJECTS = "SELECT count(*) FROM pg_largeobject_metadata"
_OTHER_DATABASES = """
SELECT string_agg(quote_ident(datname), ', ' ORDER BY datname) FROM pg_database
WHERE datname <> current_database() AND NOT datistemplate AND datallowconn
"""
_SCHEMAS = "SELECT nspname::text FROM pg_namespace WHERE nspname = ANY(%s)"


@dataclass(frozen=True, slots=True)
class _Relation:
    oid: int
    root: int
    schema: str
    name: str
    label: str
    kind: str
    why_not: str | None


def missing_schemas(connection: Connection, schemas: Sequence[str]) -> list[str]:
    """Returns those of these schemas that do not exist."""
    present = {str(name) for (name,) in connection.execute(_SCHEMAS, (list(schemas),)).fetchall()}
    return [name for name in schemas if name not in present]


def tables_of(connection: Connection, schemas: Sequence[str]) -> tuple[list[Table], list[NotLookedAt]]:
    """Returns the tables to read, and each relation or column that is not looked at.

    Args:
        schemas: none: all.
    """
    parameters = {"own": list(OWN_TABLES), "schemas": list(schemas) or None}
    relations = [_Relation(*row) for row in cast("list[tuple[Any, ...]]", connection.execute(_RELATIONS, parameters))]
    run_by_planning = planned_functions(connection, [each.oid for each in relations if each.why_not is None])
    not_looked_at: list[NotLookedAt] = []
    heaps: defaultdict[int, list[_Relation]] = defaultdict(list)
    for each in relations:
        reason = each.why_not
        if reason is None and (called := run_by_planning.get(each.oid)):
            reason = f"planning any query on it would run {called}"
        if reason is not None:
            not_looked_at.append(NotLookedAt(each.label, reason))
        elif each.kind != "p":
            heaps[each.root].append(each)
    roots = [each for each in relations if each.oid in heaps]
    # A partitioned table's columns are those of a partition: rights on the table do not reach what is read.
    labels = {heaps[root.oid][0].oid: root.label for root in roots}
    columns = _columns_of(connection, labels, not_looked_at)
    tables = []
    for root in roots:
        first, *_ = heaps[root.oid]
        if columns[first.oid]:
            chosen = _spread(heaps[root.oid], root.label, not_looked_at)
            named = tuple((each.oid, sql.Identifier(each.schema, each.name)) for each in chosen)
            tables.append(Table(root.label, named, tuple(columns[first.oid])))
    return tables, not_looked_at


def elsewhere(connection: Connection) -> Iterator[NotLookedAt]:
    """Yields what no table holds and a scan does not look at."""
    (number,) = connection.execute(_LARGE_OBJECTS).fetchall()[0]
    if number:
        yield NotLookedAt(f"large objects ({number})", "their content is not read")
    (names,) = connection.execute(_OTHER_DATABASES).fetchall()[0]
    if names:
        yield NotLookedAt(f"other databases of the server ({names})", "each needs a scan of its own")


def _spread(heaps: Sequence[_Relation], label: str, not_looked_at: list[NotLookedAt]) -> list[_Relation]:
    """Returns all partitions, or some spread over all of them."""
    if len(heaps) <= MOST_PARTITIONS:
        return list(heaps)
    left_out = len(heaps) - MOST_PARTITIONS
    not_looked_at.append(
        NotLookedAt(f"{left_out:,} of the {len(heaps):,} partitions of {label}", "the others are a sample")
    )
    return [heaps[index * (len(heaps) - 1) // (MOST_PARTITIONS - 1)] for index in range(MOST_PARTITIONS)]


def _columns_of(
    connection: Connection, labels: Mapping[int, str], not_looked_at: list[NotLookedAt]
) -> Mapping[int, list[Column]]:
    """Returns the columns to read of each relation, which may be none."""
    rows = cast(
        "list[tuple[int, str, int, str, str, str | None]]", connection.execute(_COLUMNS, (list(labels),)).fetchall()
    )
    types = load_types(connection, sorted({row[2] for row in rows}))
    found: dict[int, list[Column]] = {oid: [] for oid in labels}
    for relation, name, oid, written, base, why_not in rows:
        parts = list(readers_of(types, oid, sql.Identifier(name)))
        reasons = {part for part in parts if isinstance(part, str)}
        readers = tuple(part for part in parts if isinstance(part, Reader))
        if why_not is not None and parts:
            reasons, readers = {why_not}, ()
        not_looked_at += [NotLookedAt(f"{labels[relation]}.{name}", reason) for reason in sorted(reasons)]
        if readers:
            found[relation].append(Column(name, written, base, readers))
    return found
