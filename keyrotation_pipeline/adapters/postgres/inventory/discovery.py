"""Searches every undeclared column that can hold text for encrypted values; proposes the columns to declare."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast

from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory import catalog_search, places
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import create_tables_for, hits_of, sql_of
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import (
    ANYWHERE,
    EXACT_END,
    EXACT_PREFIX,
    LIKELY,
    code_in,
    pieces,
    value_class,
)
from keyrotation_pipeline.adapters.postgres.inventory.registered_versions import listed_versions, registered
from keyrotation_pipeline.adapters.postgres.inventory.relations import Column, scope_of
from keyrotation_pipeline.adapters.postgres.inventory.scans import from_page, heap_scan, of_a_sample, readable_tree
from keyrotation_pipeline.adapters.postgres.ledger.schema import OWN_TABLES
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, PreflightError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn, Place, TableName

# Types that cannot hold text are listed, all others are searched: an unknown extension type is not a blind spot.
# Containers (domains, arrays, composites, ranges) can if what they contain can.
_COLUMNS = own("""
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
""")

_Row = tuple[int, str, str, str, list[str], list[str] | None, list[str] | None]

# A value that is the whole text is recognised by its class, which is ten times as fast as splitting hits. The parts of
# a hit: white space before it at the very beginning, the version, the end of the nonce. (OFFSET 0: one class per text.)
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
                THEN {named} END
    FROM regexp_matches(CASE WHEN class <= 0 AND text ~ {likely} THEN text END, {anywhere}, 'g') AS hit
) AS hits(version)
"""

# Values of other libraries have no near-misses: only those count whose key is known.
_HITS_OF_KEYS = """
SELECT count(*), 0, array_agg(DISTINCT {version})
FROM (SELECT {text} FROM ONLY {relation} {pages} OFFSET 0) AS searched (cell), LATERAL {pieces} AS cut, {hits}
"""

_MATERIALIZED = (
    "materialized view holds encrypted values: REFRESH MATERIALIZED VIEW once the underlying rows are re-encrypted"
)


_OUTSIDE_OF_PATHS = "a document holds encrypted values outside of the declared paths"
_IN_UNENCRYPTED = "a text that its row calls unencrypted holds encrypted values"


@dataclass(frozen=True, slots=True)
class SearchedRelation:
    """One relation and its columns that could hold our values.

    Args:
        binary: the columns of type bytea.
        of_users: the columns of a custom type, for which somebody may have defined casts.
        declared: the declared places inside a column, which are not searched: paths, or what its rows call encrypted.
    """

    oid: int
    name: TableName
    kind: str
    columns: tuple[str, ...]
    binary: frozenset[str]
    of_users: frozenset[str]
    declared: Mapping[str, Sequence[Column]] = field(default_factory=dict, hash=False)

    @property
    def identifier(self) -> sql.Identifier:
        """The name, schema-qualified and quoted."""
        return sql.Identifier(self.name.schema, self.name.table)

    @property
    def label(self) -> str:
        """The name in messages."""
        return str(self.name)

    @property
    def recorded_as(self) -> str:
        """Its oid: ``"a.b"`` in public has the same label as ``b`` in the schema ``a``."""
        return str(self.oid)

    @property
    def scope(self) -> str:
        """A text that identifies which of its columns are searched."""
        inside = (column.place.declaration for each in self.declared.values() for column in each)
        return scope_of((*self.columns, *inside))

    @property
    def has_pages(self) -> bool:
        """Whether parts of it can be read alone; a foreign table is read whole or not at all."""
        return self.kind != "f"

    def cell(self, column: str) -> sql.Composed:
        """Returns what to search in a cell: its text; for bytea its bytes, which become text piece by piece.

        concat() uses the type's output function: a cast runs code of the type's owner, and could hide content.
        """
        declared = self.declared.get(column, ())
        if any(each.place.path for each in declared):
            return sql.SQL("{}::text").format(places.without_values(declared))
        stored = places.unencrypted_rest(declared[0]) if declared else sql.Identifier(column)
        form = "{}" if column in self.binary else "concat({})" if column in self.of_users else "{}::text"
        return sql.SQL(form).format(stored)

    def pieces(self, column: str, cell: sql.Composable) -> sql.Composed:
        """Returns the text of a cell, in pieces if it is large; of bytea with non-ASCII bytes escaped.

        Args:
            cell: an alias other than the column's name, which may collide with one inside the pieces.
        """
        size = sql.SQL("octet_length({})").format(cell)
        piece = sql.SQL("substr({}, start, length)").format(cell)
        return pieces(self._text(column, cell), size, self._text(column, piece))

    def may_hold_value(self, column: str, value_format: ValueFormat) -> sql.Composed:
        """Returns whether a cell may contain a value of this format; a large one may contain some."""
        cell = self.cell(column)
        return sql_of(value_format).may_be_in(sql.SQL("octet_length({})").format(cell), self._text(column, cell))

    def _text(self, column: str, cell: sql.Composable) -> sql.Composed:
        return sql.SQL("encode({}, 'escape')" if column in self.binary else "{}").format(cell)


def discover(
    connection: Connection,
    tables: Sequence[EncryptedTable],
    first_pages: Mapping[int, int] = MappingProxyType({}),
    announce: Callable[[str], None] = lambda _: None,
    *,
    sampled: bool = False,
) -> tuple[FoundColumn, ...]:
    """Searches every column that is not declared in `tables`; a relation that cannot be read is a finding too.

    A near-miss resembles a value down to its nonce except for the spelling of its version (``v01:``, `` v1:``,
    ``V1:``); prose such as ``v1: notes`` is not one.

    Args:
        first_pages: by oid, the page at which the search of a relation starts, if not the first.
        announce: called with the label of each relation before it is searched.
        sampled: read only a part of each large relation, and no large objects; proves presence, not absence.

    Raises:
        PreflightError: a declared table or column is missing.
        BlockedError: another session has locked a declared table.
        DatabaseUnavailableError: the connection was lost.
    """
    findings: list[FoundColumn] = []
    value_format = format_of_home(tables)
    create_tables_for(connection, value_format)
    for relation in searched(connection, tables):
        announce(relation.label)
        try:
            first = first_pages.get(relation.oid, 0)
            if relation.has_pages or not first:
                findings += search(connection, relation, from_page(first), value_format, sampled=sampled)
        except (BlockedError, PreflightError) as error:
            findings.append(FoundColumn(relation.label, "*", 0, 0, (), str(error)))
    if catalog_search.LARGE_OBJECTS not in first_pages and not sampled:
        announce("large objects")
        findings += catalog_search.in_large_objects(connection, value_format)
    return (*findings, *catalog_search.in_definitions(connection, value_format))


def format_of_home(tables: Sequence[EncryptedTable]) -> ValueFormat:
    """Returns the format of all declared tables; before any is declared, our own is searched for."""
    return tables[0].format if tables else NATIVE


def unsearchable(connection: Connection, tables: Sequence[EncryptedTable]) -> Iterator[str]:
    """Yields why `discover` could not search a relation, one sentence each, without searching any."""
    try:
        _catalog(connection)
    except PreflightError as error:
        yield str(error)
        return
    for relation in searched(connection, tables):
        columns = sql.SQL(", ").join(map(sql.Identifier, relation.columns))
        try:
            with heap_scan(connection, relation.label, relation.oid):
                connection.execute(sql.SQL("SELECT {} FROM ONLY {} LIMIT 0").format(columns, relation.identifier))
        except (BlockedError, PreflightError) as error:
            yield str(error)


def searched(connection: Connection, tables: Sequence[EncryptedTable]) -> list[SearchedRelation]:
    """Returns each relation that `discover` searches, with its columns."""
    declared: dict[int, dict[str, list[Column]]] = {}
    for table in tables:
        for relation in readable_tree(connection, table):
            for column in relation.columns:
                declared.setdefault(relation.oid, {}).setdefault(column.name, []).append(column)
    found = []
    for oid, schema, name, kind, columns, binary, of_users in _catalog(connection):
        known = declared.get(oid, {})
        inside = {column: each for column, each in known.items() if all(one.place.path or one.when for one in each)}
        undeclared = tuple(column for column in columns if column not in known or column in inside)
        if undeclared:
            types = frozenset(binary or ()), frozenset(of_users or ())
            found.append(SearchedRelation(oid, TableName(schema, name), kind, undeclared, *types, inside))
    return found


def _catalog(connection: Connection) -> list[_Row]:
    with heap_scan(connection, "the catalog"):
        return cast("list[_Row]", connection.execute(_COLUMNS, (list(OWN_TABLES),)).fetchall())


def search(
    connection: Connection,
    relation: SearchedRelation,
    pages: sql.Composable,
    value_format: ValueFormat,
    *,
    sampled: bool = False,
) -> list[FoundColumn]:
    """Searches one relation; reads nothing of it where no text tells a value of this format.

    Args:
        pages: a clause that selects some of its pages, or an empty one.
        sampled: read only a part of a large relation.

    Raises:
        PreflightError, BlockedError: it cannot be read.
    """
    if not value_format.identified_by.is_searchable:
        return []
    tests = (relation.may_hold_value(column, value_format) for column in relation.columns)
    counts = [sql.SQL("count(*) FILTER (WHERE {})").format(test) for test in tests]
    if sampled:
        with heap_scan(connection, relation.label):
            pages = of_a_sample(connection, relation.oid)
    query = sql.SQL("SELECT {} FROM ONLY {} {}").format(sql.SQL(", ").join(counts), relation.identifier, pages)
    with heap_scan(connection, relation.label, relation.oid):
        rows = cast("tuple[int, ...]", connection.execute(query).fetchone())
        suspects = [column for column, number in zip(relation.columns, rows, strict=True) if number]
        findings = [_finding(connection, relation, column, pages, value_format) for column in suspects]
    return [found for found in findings if found.values or found.near_misses]


def _finding(
    connection: Connection, relation: SearchedRelation, column: str, pages: sql.Composable, value_format: ValueFormat
) -> FoundColumn:
    query = (
        _hits(relation, column, pages)
        if value_format.name == NATIVE.name
        else _hits_of_keys(relation, column, pages, value_format)
    )
    row = connection.execute(query).fetchone()
    values, near_misses, versions = cast("tuple[int, int, list[int] | None]", row)
    found = listed_versions([KeyVersion.of_code(number) for number in versions or ()], registered(connection))
    if column in relation.declared:
        reason = _IN_UNENCRYPTED if relation.declared[column][0].when else _OUTSIDE_OF_PATHS
        return FoundColumn(relation.label, column, values, near_misses, found, reason)
    if relation.kind == "m":
        return FoundColumn(relation.label, column, values, near_misses, found, _MATERIALIZED, materialized=True)
    return FoundColumn(relation.label, column, values, near_misses, found)


def _hits_of_keys(
    relation: SearchedRelation, column: str, pages: sql.Composable, value_format: ValueFormat
) -> sql.Composed:
    hits, version = hits_of(value_format, sql.SQL("cut.text"))
    return sql.SQL(_HITS_OF_KEYS).format(
        version=version,
        relation=relation.identifier,
        pages=pages,
        text=relation.cell(column),
        pieces=relation.pieces(column, sql.Identifier("cell")),
        hits=hits,
    )


def _hits(relation: SearchedRelation, column: str, pages: sql.Composable) -> sql.Composed:
    return sql.SQL(_HITS).format(
        exact_prefix=sql.Literal(EXACT_PREFIX),
        exact_end=sql.Literal(EXACT_END),
        named=code_in(sql.SQL("hit[2]")),
        relation=relation.identifier,
        pages=pages,
        text=relation.cell(column),
        pieces=relation.pieces(column, sql.Identifier("cell")),
        value_class=value_class(sql.SQL("piece.text")),
        likely=sql.Literal(LIKELY),
        anywhere=sql.Literal(ANYWHERE),
    )


# The table that a partition or an inheritance child belongs to, and whether its elements are the values, if the column
# is one of an ordinary table and can be declared by its name.
_DECLARABLE = """
WITH RECURSIVE up(oid, depth) AS (
    SELECT c.oid, 0 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND c.relkind IN ('r', 'p')
    UNION ALL
    SELECT i.inhparent, up.depth + 1 FROM up JOIN pg_inherits i ON i.inhrelid = up.oid
    JOIN pg_attribute a ON a.attrelid = i.inhparent AND a.attname = %(column)s AND NOT a.attisdropped
), base(typ) AS (
    SELECT a.atttypid FROM up JOIN pg_attribute a ON a.attrelid = up.oid AND a.attname = %(column)s WHERE up.depth = 0
    UNION ALL
    SELECT t.typbasetype FROM base JOIN pg_type t ON t.oid = base.typ WHERE t.typtype = 'd'
)
SELECT n.nspname::text, c.relname::text, base.typ IN ('text[]'::regtype, 'varchar[]'::regtype)
FROM up JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace JOIN base
  ON base.typ IN ('text'::regtype, 'varchar'::regtype, 'bytea'::regtype, 'text[]'::regtype, 'varchar[]'::regtype)
  OR EXISTS (
      SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_type t ON t.oid = d.objid
      WHERE d.classid = 'pg_type'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
        AND d.objid = base.typ AND e.extname = 'citext' AND t.typname = 'citext'
  )
ORDER BY up.depth DESC LIMIT 1
"""


def candidates(
    connection: Connection, findings: Sequence[FoundColumn]
) -> tuple[tuple[EncryptedTable, ...], tuple[FoundColumn, ...]]:
    """Divides findings into tables with the columns to declare, and findings that cannot be declared."""
    places: defaultdict[TableName, list[Place]] = defaultdict(list)
    rest = []
    for finding in findings:
        found = _declarable(connection, finding) if finding.values else None
        if found is None:
            rest.append(finding)
        elif found[1] not in places[found[0]]:
            places[found[0]].append(found[1])
    return tuple(EncryptedTable.of(name, each) for name, each in sorted(places.items())), tuple(rest)


def _declarable(connection: Connection, finding: FoundColumn) -> tuple[TableName, Place] | None:
    name = TableName.parse(finding.relation)
    parameters = {"schema": name.schema, "table": name.table, "column": finding.column}
    row = connection.execute(_DECLARABLE, parameters).fetchone()
    # The configuration names tables without quotes, so a name with a dot cannot be written there.
    if row is None or any("." in str(part) for part in row[:2]):
        return None
    schema, table, elements = row
    return TableName(str(schema), str(table)), Place(finding.column, elements=elements is True)
