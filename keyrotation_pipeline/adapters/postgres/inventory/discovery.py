"""Searches every undeclared column that can hold text for encrypted values; proposes the columns to declare."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import catalog_search
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import (
    ANYWHERE,
    EXACT_END,
    EXACT_PREFIX,
    LIKELY,
    may_hold_value,
    pieces,
    value_class,
)
from keyrotation_pipeline.adapters.postgres.inventory.relations import look_of
from keyrotation_pipeline.adapters.postgres.inventory.scans import from_page, heap_scan, of_a_sample, readable_tree
from keyrotation_pipeline.adapters.postgres.ledger.schema import OWN_TABLES
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn, TableName

# Types that cannot hold text are named, all others are searched: an unknown extension type is no blind spot.
# Containers (domains, arrays, composites, ranges) can if what they contain can.
_COLUMNS = """
WITH RECURSIVE bearing(oid) AS (
    SELECT t.oid FROM pg_type t
    WHERE t.typtype = 'b' AND t.typcategory <> 'A'
      AND NOT (t.typnamespace = 'pg_catalog'::regnamespace
               AND (t.typcategory IN ('N', 'B', 'D', 'G', 'I', 'T', 'V', 'Z')
                    OR t.typname IN ('uuid', 'pg_lsn', 'xid', 'xid8', 'cid', 'tid', 'txid_snapshot', 'pg_snapshot',
                                     'macaddr', 'macaddr8', 'aclitem', 'gtsvector')))
    UNION
    SELECT contains.outside FROM bearing JOIN (
        SELECT oid AS outside, typbasetype AS inside FROM pg_type WHERE typtype = 'd'
        UNION ALL SELECT oid, typelem FROM pg_type WHERE typcategory = 'A' AND typelem <> 0
        UNION ALL SELECT c.reltype, a.atttypid FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                  WHERE c.reltype <> 0 AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT rngtypid, rngsubtype FROM pg_range
        UNION ALL SELECT rngmultitypid, rngtypid FROM pg_range
    ) AS contains ON contains.inside = bearing.oid
)
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text,
       array_agg(a.attname::text ORDER BY a.attnum),
       array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE format_type(a.atttypid, NULL) = 'bytea'),
       array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE t.typnamespace <> 'pg_catalog'::regnamespace)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
JOIN bearing b ON b.oid = a.atttypid JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relkind IN ('r', 'm', 'f') AND c.relispopulated AND c.relpersistence <> 't' AND c.oid >= 16384
  AND n.nspname !~ '^pg_' AND NOT (n.nspname = 'keyrotation' AND c.relname = ANY(%s))
GROUP BY c.oid, n.nspname, c.relname, c.relkind
ORDER BY n.nspname, c.relname
"""

_Row = tuple[int, str, str, str, list[str], list[str] | None, list[str] | None]

# A value that stands alone is told by its class, which is ten times as fast as taking hits apart. The parts of a hit:
# white space before it at the very beginning, the version, what ends the nonce. (OFFSET 0: each class is judged once.)
_HITS = """
SELECT count(version), count(*) - count(version), array_agg(DISTINCT version) FILTER (WHERE version IS NOT NULL)
FROM (
    SELECT piece.text, {value_class} AS class
    FROM (SELECT {text} FROM ONLY {relation} {pages} OFFSET 0) AS searched (cell),
        LATERAL {pieces} AS cut, LATERAL (SELECT cut.text COLLATE "C") AS piece (text) OFFSET 0
) AS held, LATERAL (
    SELECT class WHERE class > 0
    UNION ALL
    SELECT CASE WHEN hit[1] IS NULL AND hit[2] COLLATE "C" ~ {exact_prefix} AND hit[3] COLLATE "C" ~ {exact_end}
                THEN (regexp_match(hit[2], '[0-9]+'))[1]::int END
    FROM regexp_matches(CASE WHEN class <= 0 AND text ~ {likely} THEN text END, {anywhere}, 'g') AS hit
) AS hits(version)
"""

_MATERIALIZED = (
    "materialized view holds encrypted values: REFRESH MATERIALIZED VIEW once the rows beneath it are re-encrypted"
)


@dataclass(frozen=True, slots=True)
class Place:
    """One relation and its columns that could hold our values.

    Args:
        binary: those of type bytea.
        of_users: those whose type is not PostgreSQL's own, so that somebody may have made casts for it.
    """

    oid: int
    name: TableName
    kind: str
    columns: tuple[str, ...]
    binary: frozenset[str]
    of_users: frozenset[str]

    @property
    def identifier(self) -> sql.Identifier:
        """Schema-qualified and quoted."""
        return sql.Identifier(self.name.schema, self.name.table)

    @property
    def label(self) -> str:
        """As messages name it."""
        return str(self.name)

    @property
    def noted_as(self) -> str:
        """Its number: ``"a.b"`` in public is called as ``b`` in the schema ``a``."""
        return str(self.oid)

    @property
    def look(self) -> str:
        """What of it is searched."""
        return look_of(self.columns)

    @property
    def has_pages(self) -> bool:
        """Whether some of it can be read without the rest; a foreign table is read whole or not."""
        return self.kind != "f"

    def cell(self, column: str) -> sql.Composed:
        """What a cell is searched by: its text; for bytea its bytes, which become text piece by piece.

        concat() takes the type's output function: a cast runs code of the type's owner, and could hide what is there.
        """
        form = "{}" if column in self.binary else "concat({})" if column in self.of_users else "{}::text"
        return sql.SQL(form).format(sql.Identifier(column))

    def pieces(self, column: str, cell: sql.Composable) -> sql.Composed:
        """The text of a cell, in pieces where it is large; of bytea with what is not ASCII escaped.

        Args:
            cell: a name that the column has not given: it may be called as something is where the pieces are made.
        """
        size = sql.SQL("octet_length({})").format(cell)
        piece = sql.SQL("substr({}, start, length)").format(cell)
        return pieces(self._text(column, cell), size, self._text(column, piece))

    def may_hold_value(self, column: str) -> sql.Composed:
        """Whether one of our values stands anywhere in a cell; a large one may hold some."""
        cell = self.cell(column)
        return may_hold_value(sql.SQL("octet_length({})").format(cell), self._text(column, cell))

    def _text(self, column: str, cell: sql.Composable) -> sql.Composed:
        return sql.SQL("encode({}, 'escape')" if column in self.binary else "{}").format(cell)


def discover(
    connection: Connection,
    tables: Sequence[EncryptedTable],
    first_pages: Mapping[int, int] = MappingProxyType({}),
    tell: Callable[[str], None] = lambda _: None,
    *,
    sampled: bool = False,
) -> tuple[FoundColumn, ...]:
    """Search every column that is not declared in `tables`; a relation that cannot be read is a finding too.

    Near-misses are what resembles a value down to its nonce but for the spelling of its version (``v01:``, `` v1:``,
    ``V1:``); prose such as ``v1: notes`` is none.

    Args:
        first_pages: by oid, from which page on a relation is searched, where not from the first.
        tell: called with the label of each relation before it is searched.
        sampled: read only a part of each large relation, and no large objects: what is there, and not what is not.

    Raises:
        PreflightError: a declared table or column is missing.
        BlockedError: another session has locked a declared table.
        DatabaseUnavailableError: the connection was lost.
    """
    findings: list[FoundColumn] = []
    for relation in places(connection, tables):
        tell(relation.label)
        try:
            first = first_pages.get(relation.oid, 0)
            if relation.has_pages or not first:
                findings += search(connection, relation, from_page(first), sampled=sampled)
        except (BlockedError, PreflightError) as error:
            findings.append(FoundColumn(relation.label, "*", 0, 0, (), str(error)))
    if catalog_search.LARGE_OBJECTS not in first_pages and not sampled:
        tell("large objects")
        findings += catalog_search.in_large_objects(connection)
    return (*findings, *catalog_search.in_definitions(connection))


def searched_relations(connection: Connection, tables: Sequence[EncryptedTable]) -> Iterator[tuple[int, str]]:
    """Oid and label of each relation that `discover` searches."""
    for relation in places(connection, tables):
        yield relation.oid, relation.label


def unsearchable(connection: Connection, tables: Sequence[EncryptedTable]) -> Iterator[str]:
    """Why `discover` could not search a relation, one sentence each, without searching any."""
    try:
        _catalog(connection)
    except PreflightError as error:
        yield str(error)
        return
    for relation in places(connection, tables):
        columns = sql.SQL(", ").join(map(sql.Identifier, relation.columns))
        try:
            with heap_scan(connection, relation.label, relation.oid):
                connection.execute(sql.SQL("SELECT {} FROM ONLY {} LIMIT 0").format(columns, relation.identifier))
        except (BlockedError, PreflightError) as error:
            yield str(error)


def places(connection: Connection, tables: Sequence[EncryptedTable]) -> list[Place]:
    """Each relation that `discover` searches, with its columns."""
    declared: dict[int, set[str]] = {}
    for table in tables:
        for relation in readable_tree(connection, table):
            declared.setdefault(relation.oid, set()).update(table.columns)
    found = []
    for oid, schema, name, kind, columns, binary, of_users in _catalog(connection):
        undeclared = tuple(column for column in columns if column not in declared.get(oid, ()))
        if undeclared:
            types = frozenset(binary or ()), frozenset(of_users or ())
            found.append(Place(oid, TableName(schema, name), kind, undeclared, *types))
    return found


def _catalog(connection: Connection) -> list[_Row]:
    with heap_scan(connection, "the catalogue"):
        return cast("list[_Row]", connection.execute(_COLUMNS, (list(OWN_TABLES),)).fetchall())


def search(
    connection: Connection, relation: Place, pages: sql.Composable, *, sampled: bool = False
) -> list[FoundColumn]:
    """Search one relation.

    Args:
        pages: a clause that names some of its pages, or an empty one.
        sampled: read only a part of a large one.

    Raises:
        PreflightError, BlockedError: it cannot be read.
    """
    tests = map(relation.may_hold_value, relation.columns)
    counts = [sql.SQL("count(*) FILTER (WHERE {})").format(test) for test in tests]
    if sampled:
        with heap_scan(connection, relation.label):
            pages = of_a_sample(connection, relation.oid)
    query = sql.SQL("SELECT {} FROM ONLY {} {}").format(sql.SQL(", ").join(counts), relation.identifier, pages)
    with heap_scan(connection, relation.label, relation.oid):
        rows = cast("tuple[int, ...]", connection.execute(query).fetchone())
        suspects = [column for column, number in zip(relation.columns, rows, strict=True) if number]
        findings = [_finding(connection, relation, column, pages) for column in suspects]
    return [found for found in findings if found.values or found.near_misses]


def _finding(connection: Connection, relation: Place, column: str, pages: sql.Composable) -> FoundColumn:
    query = sql.SQL(_HITS).format(
        exact_prefix=sql.Literal(EXACT_PREFIX),
        exact_end=sql.Literal(EXACT_END),
        relation=relation.identifier,
        pages=pages,
        text=relation.cell(column),
        pieces=relation.pieces(column, sql.Identifier("cell")),
        value_class=value_class(sql.SQL("{}").format(sql.SQL("piece.text"))),
        likely=sql.Literal(LIKELY),
        anywhere=sql.Literal(ANYWHERE),
    )
    row = connection.execute(query).fetchone()
    values, near_misses, versions = cast("tuple[int, int, list[int] | None]", row)
    found = tuple(KeyVersion(number) for number in versions or ())
    if relation.kind == "m":
        return FoundColumn(relation.label, column, values, near_misses, found, _MATERIALIZED, materialized=True)
    return FoundColumn(relation.label, column, values, near_misses, found)


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
