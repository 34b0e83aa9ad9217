"""Finds the physical relations of a declared table: the table itself, its partitions and its inheritance children."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory.foreign_code import require_own_planning
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, display_name
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.binding import parsed_template
from keyrotation_pipeline.fieldcrypto.formats.marking import mac_of
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.model.tables import EncryptedTable, Place, SearchIndex

# Types of PostgreSQL's own, whose numbers never change.
BOOLEAN, BYTEA, JSON, JSONB = 16, 17, 114, 3802
PLAIN_TEXTS = frozenset({25, 1043})  # text, varchar
TEXT_ARRAYS = frozenset({1009, 1015})  # text[], varchar[]
# int2, int4, int8, text, varchar, uuid: everybody writes their values as the server does.
BOUND_TYPES = frozenset({21, 23, 20, 25, 1043, 2950})
# In which libraries store a part of a value, or what they derive its key from.
PART_TYPES = PLAIN_TEXTS | BOUND_TYPES | {BYTEA}

CORRECT_TABLES = "correct [[tables]] in keyrotation.toml"


@dataclass(frozen=True, slots=True)
class Column:
    """One declared place of one relation, with the column that it is in.

    Args:
        type_sql: the type without its modifier, quoted as SQL. A cast to it may cut a value: a domain has a length of
            its own, and ``character`` without one is of one character.
        base_type: name of the type below all domains: ``text``, ``varchar``, …
        max_chars: limit of varchar(n), None without one.
        is_text: it is stored as text (text, varchar, char, citext); others need a cast.
        uncut_sql: the type below all domains without any length. A value that is cast to it is never cut, and a value
            too long for the column is then an error of the assignment.
        type_oid: of the type below all domains.
        when: the column that says which texts are values, where the place has one.
        shape: where it has: the form of a value, as SQL; see `formats.marking.Mac.shape`.
        of_bytes: whether its values are bytes that no text can hold.
        iv: the column of the value's nonce, where it has one of its own.
        bound: what the value is authenticated with, in order: texts, and columns of the same row.
        row_key: the column with the key of the row, which a value of our own may be bound to. It is read with the value
            for the codec alone: in SQL the value is judged as it is stored.
        beside: the columns that hold a part of each value of another library, which are read for the codec alone, too.
    """

    name: str
    type_sql: str
    base_type: str
    max_chars: int | None
    generated: bool
    is_text: bool
    uncut_sql: str
    type_oid: int
    place: Place
    when: "Column | None" = None
    shape: str = ""
    of_bytes: bool = False
    iv: "Column | None" = None
    bound: "tuple[str | Column, ...]" = ()
    row_key: "Column | None" = None
    beside: "tuple[Column, ...]" = ()

    @property
    def is_binary(self) -> bool:
        """Whether the value is stored as bytes, and passed as such; a value and its nonce are passed as one text."""
        return self.type_oid == BYTEA and self.iv is None

    @property
    def stored(self) -> "tuple[Column, ...]":
        """The columns that are written with a new value."""
        return (self,) if self.iv is None else (self, self.iv)

    @property
    def conditions(self) -> "tuple[Column, ...]":
        """The column that says which texts are values, if there is one."""
        return () if self.when is None else (self.when,)

    @property
    def companions(self) -> "tuple[Column, ...]":
        """The columns that the associated data is made of, or that hold a part of each value."""
        return tuple(each for each in (*self.bound, self.row_key, *self.beside) if isinstance(each, Column))

    @property
    def holds_values(self) -> bool:
        """Whether the column is of a type in which the values of such a place can be read, written and refused."""
        if not self._companions_fit:
            return False
        if self.of_bytes:
            return self.is_binary
        if self.place.path:
            return self.type_oid == JSONB
        if self.place.elements:
            return self.type_oid in TEXT_ARRAYS
        return self.is_text or self.type_oid == BYTEA

    @property
    def _companions_fit(self) -> bool:
        """Whether the other columns that are read with it are of such types."""
        if any(each.type_oid not in self._types_of(each) for each in self.companions):
            return False
        return all(each.type_oid == BOOLEAN for each in self.conditions) and (self.iv is None or self.iv.holds_values)

    def _types_of(self, companion: "Column") -> frozenset[int]:
        return PART_TYPES if companion in self.beside else BOUND_TYPES


@dataclass(frozen=True, slots=True)
class IndexedColumn:
    """A search index of one relation: the encrypted column, and the two columns that hold the index.

    Args:
        number: of the encrypted column among the places of the relation.
    """

    index: SearchIndex
    number: int
    odd: Column
    even: Column

    @property
    def columns(self) -> tuple[Column, Column]:
        """Both columns."""
        return self.odd, self.even


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation of a declared table's tree. Every statement on it uses ONLY.

    Args:
        kind: `relkind`; an ordinary table is ``r``, a partitioned one ``p``.
        access_method: name of the table access method, None if there is none.
        temporary: a temporary table, which only its own session can read.
        partition: it is a partition of another table.
        detaching: a DETACH CONCURRENTLY of it is unfinished.
    """

    oid: int
    schema: str
    name: str
    kind: str
    access_method: str | None
    temporary: bool
    partition: bool
    detaching: bool
    pages: int
    columns: tuple[Column, ...]
    indexes: tuple[IndexedColumn, ...] = ()

    @property
    def stored_columns(self) -> tuple[str, ...]:
        """The names of the columns that hold values, or a value's nonce."""
        return tuple(dict.fromkeys(each.name for column in self.columns for each in column.stored))

    @property
    def read_columns(self) -> tuple[str, ...]:
        """The same, and those of the same rows that are read with them."""
        companions = (each.name for column in self.columns for each in (*column.companions, *column.conditions))
        return tuple(dict.fromkeys([*self.stored_columns, *companions]))

    @property
    def index_columns(self) -> tuple[str, ...]:
        """The names of the columns of search indexes."""
        return tuple(column.name for index in self.indexes for column in index.columns)

    @property
    def written_columns(self) -> list[str]:
        """The names of all columns that a re-encryption writes, as a query parameter."""
        return [*self.stored_columns, *self.index_columns]

    @property
    def identifier(self) -> sql.Identifier:
        """The name, schema-qualified and quoted."""
        return sql.Identifier(self.schema, self.name)

    @property
    def label(self) -> str:
        """The name in messages."""
        return ".".join(self.parts)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the label, to be quoted one by one in SQL."""
        return (self.name,) if self.schema == "public" else (self.schema, self.name)

    @property
    def recorded_as(self) -> str:
        """The name under which it is recorded among the relations of its table."""
        return self.label

    @property
    def scope(self) -> str:
        """A text that identifies the declared columns."""
        return scope_of(column.place.declaration for column in self.columns)

    @property
    def has_pages(self) -> bool:
        """True: parts of it can be read alone."""
        return True

    @property
    def is_heap(self) -> bool:
        """Whether its rows are where we can count, rewrite and fence them."""
        return self.kind == "r" and self.access_method == "heap" and not self.temporary and not self.detaching

    @property
    def holds_no_rows(self) -> bool:
        """Whether it is a partitioned parent, whose rows are in its partitions."""
        return self.kind == "p" and not self.detaching


def scope_of(columns: Iterable[str]) -> str:
    """Returns a short text that distinguishes sets of columns."""
    return "/" + hashlib.sha256("\0".join(sorted(columns)).encode()).hexdigest()[:16]


_TREES = """
WITH RECURSIVE tree(place, oid) AS (
    SELECT g.place, c.oid
    FROM unnest(%s::text[]::name[], %s::text[]::name[]) WITH ORDINALITY AS g (nspname, relname, place)
    JOIN pg_namespace n USING (nspname) JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = g.relname
    UNION
    SELECT t.place, i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid
)
SELECT place, c.oid::bigint, n.nspname, c.relname, c.relkind::text, (SELECT amname FROM pg_am WHERE oid = c.relam),
       c.relpersistence = 't', c.relispartition,
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid AND i.inhdetachpending),
       CASE WHEN c.relkind IN ('r', 'm', 't')
            THEN pg_relation_size(c.oid) / current_setting('block_size')::int ELSE 0 END
FROM tree JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY place, n.nspname, c.relname
"""

_BYTES = (
    "SELECT coalesce(sum(pg_table_size(oid)), 0)::bigint FROM pg_class WHERE oid = ANY(%s::oid[]) AND relkind = 'r'"
)

_COLUMNS = """
WITH RECURSIVE base(attrelid, attnum, typ, typmod) AS (
    SELECT a.attrelid, a.attnum, a.atttypid, a.atttypmod FROM pg_attribute a
    WHERE a.attrelid = ANY(%s::bigint[]::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = ANY(%s)
    UNION ALL
    SELECT b.attrelid, b.attnum, t.typbasetype, CASE WHEN b.typmod = -1 THEN t.typtypmod ELSE b.typmod END
    FROM base b JOIN pg_type t ON t.oid = b.typ WHERE t.typtype = 'd'
)
SELECT a.attrelid::bigint, a.attname, format_type(a.atttypid, NULL), bt.typname,
       CASE WHEN bt.typname IN ('varchar', '_varchar', 'bpchar') AND b.typmod > 4 THEN b.typmod - 4 END,
       a.attgenerated <> '',
       bt.oid IN ('text'::regtype, 'bpchar'::regtype) OR coalesce(k.castmethod = 'b', false),
       format_type(bt.oid, -1), bt.oid::bigint
FROM base b JOIN pg_type bt ON bt.oid = b.typ AND bt.typtype <> 'd'
JOIN pg_attribute a ON a.attrelid = b.attrelid AND a.attnum = b.attnum
LEFT JOIN pg_cast k ON k.castsource = bt.oid AND k.casttarget = 'text'::regtype
"""


_PAGES = "SELECT pg_relation_size(%s::oid::regclass) / current_setting('block_size')::int"
_THERE = """
SELECT count(*) FROM unnest(%s::text[], %s::text[]) AS declared (schema, name)
JOIN pg_namespace n ON n.nspname = declared.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = declared.name
"""


def require_declared(connection: Connection, tables: Sequence[EncryptedTable]) -> None:
    """Refuses a database that has none of the declared tables: it is empty, or another one than the configuration's.

    Raises:
        PreflightError: says how to restore a backup.
    """
    names = [table.name.schema for table in tables], [table.name.table for table in tables]
    if tables and connection.execute(_THERE, names).fetchone() == (0,):
        declared = ", ".join(str(table.name) for table in tables)
        raise PreflightError(
            f"{display_name(connection.info.dsn)} has none of the tables that keyrotation.toml declares ({declared}); "
            "correct [database] url, or restore a backup: `keyrotation recover`"
        )


def tree(connection: Connection, table: EncryptedTable) -> tuple[Relation, ...]:
    """Returns every relation of the declared table's inheritance or partition tree with its root, of any kind.

    Raises:
        PreflightError: the table, or a declared column of a relation in the tree, does not exist.
    """
    return or_raise(trees(connection, (table,))[table])


T = TypeVar("T")


def or_raise(found: T | PreflightError) -> T:
    """Returns what was found for one of many tables, or raises its error."""
    if isinstance(found, PreflightError):
        raise found
    return found


def trees(
    connection: Connection, tables: Sequence[EncryptedTable]
) -> dict[EncryptedTable, tuple[Relation, ...] | PreflightError]:
    """Returns the trees of many tables by two statements; for each either its relations or an error."""
    names = [table.name.schema for table in tables], [table.name.table for table in tables]
    rows: list[Any] = connection.execute(_TREES, names).fetchall()
    wanted = sorted({column for table in tables for column in (*table.read_columns, *table.index_columns)})
    columns: dict[int, dict[str, Column]] = {row[1]: {} for row in rows}
    for oid, *facts in cast("list[Any]", connection.execute(_COLUMNS, (list(columns), wanted)).fetchall()):
        fields: list[Any] = [*facts, Place(facts[0])]
        columns[oid][facts[0]] = Column(*fields)
    facts_by_place: dict[int, list[Any]] = {}
    for place, *facts in rows:
        facts_by_place.setdefault(place, []).append(facts)
    return {table: _tree(table, facts_by_place.get(place, ()), columns) for place, table in enumerate(tables, 1)}


def pages_of(connection: Connection, oid: int) -> int:
    """Returns the number of pages of a heap now."""
    return int(str(connection.execute(_PAGES, (oid,)).fetchall()[0][0]))


def heap_and_toast_bytes(connection: Connection, oids: Sequence[int]) -> int:
    """Returns the size of what ordinary tables hold, with the large values that are stored outside of their heaps."""
    (row,) = connection.execute(_BYTES, (list(oids),)).fetchall()
    return int(str(row[0]))


def heaps(connection: Connection, table: EncryptedTable) -> tuple[Relation, ...]:
    """Returns the relations of the tree that hold rows; raises as `ordinary_tree`."""
    return tuple(relation for relation in ordinary_tree(connection, table) if relation.is_heap)


def ordinary_tree(connection: Connection, table: EncryptedTable) -> tuple[Relation, ...]:
    """Returns the tree, if everything in it that holds rows is an ordinary heap.

    Raises:
        PreflightError: the table is missing; the tree holds something other than ordinary heaps, whose rows would be
            missed silently; a declared column is not of text; or planning a query on it would run code of another role.
    """
    found = tree(connection, table)
    for relation in found:
        if relation.detaching:
            raise PreflightError(
                f"partition {relation.label} is being detached from {table.name}, which is not finished; wait until "
                "that ends, or run ALTER TABLE … DETACH PARTITION … FINALIZE"
            )
        if not (relation.is_heap or relation.holds_no_rows):
            raise PreflightError(
                f"{relation.label}, declared through {table.name}, is not an ordinary table, so its rows can be "
                "neither counted nor rotated; declare the underlying table, or detach it"
            )
    _require_text(found)
    _require_index_text(found)
    require_own_planning(connection, *(relation.oid for relation in found))
    return found


def _require_text(tree: Sequence[Relation]) -> None:
    """Refuses other types: their text is not what is stored, and a cast by the type's owner would run as our role."""
    for relation in tree:
        for column in relation.columns:
            if not column.holds_values:
                raise PreflightError(unsuitable(relation, column))


def _require_index_text(tree: Sequence[Relation]) -> None:
    """Refuses columns of search indexes of other types, for the same reasons."""
    for relation in tree:
        for column in (each for index in relation.indexes for each in index.columns):
            if column.type_oid not in PLAIN_TEXTS:
                raise PreflightError(
                    f"column {relation.label}.{column.name} is of type {column.type_sql}, and search indexes "
                    "are written as text; make it text"
                )


def unsuitable(relation: Relation, column: Column) -> str:
    """Says what to do about a column whose type does not fit its place."""
    for each in column.beside:
        if each.type_oid not in PART_TYPES:
            return (
                f"column {relation.label}.{each.name}, which from of column {column.name} names, is of type "
                f"{each.type_sql}, and no library reads that with a value; {CORRECT_TABLES}"
            )
    for each in column.companions:
        if each.type_oid not in BOUND_TYPES and each not in column.beside:
            named = "row of [[tables]]" if column.row_key else "[format] aad"
            return (
                f"column {relation.label}.{each.name}, which {named} names, is of type {each.type_sql}, and only "
                "text, varchar, uuid and whole numbers can be bound to; leave this table out"
            )
    if column.iv is not None and not column.iv.holds_values:
        return _unsuitable(relation, column.iv)
    return _unsuitable(relation, column)


def _unsuitable(relation: Relation, column: Column) -> str:  # noqa: PLR0911  a sentence for each type
    place = f"column {relation.label}.{column.name} is of type {column.type_sql}"
    if column.when is not None and column.when.type_oid != BOOLEAN:
        return (
            f"column {relation.label}.{column.when.name} is of type {column.when.type_sql}, and only a boolean column "
            f"can say when {column.name} counts; {CORRECT_TABLES}"
        )
    if column.of_bytes:
        return f"{place}, and values of this [format] are bytes, which only bytea holds; correct [format] or [[tables]]"
    if column.type_oid == JSON:
        return (
            f"{place}, which keeps a document as it was typed, so a value in it cannot be replaced alone; make it jsonb"
        )
    if column.type_oid == JSONB:
        return f'{place}; name the value in its documents: {{ column = "{column.name}", path = ["key", …] }}'
    if column.type_oid in TEXT_ARRAYS:
        return f'{place}; declare its elements: {{ column = "{column.name}", elements = true }}'
    if not column.place.is_column:
        only, option = (
            ("jsonb has values at a path", "path")
            if column.place.path
            else ("the elements of text[] and varchar[] can be rotated", "elements")
        )
        return f"{place}, and only {only}; remove {option} from [[tables]] in keyrotation.toml"
    return (
        f"{place}, whose text is not what is stored: encrypted values cannot be counted there; make it text, or "
        "remove it from [[tables]]"
    )


def root(tree: Sequence[Relation], table: EncryptedTable) -> Relation:
    """Returns the declared table itself from its tree, partitioned or not: the fence is put on it."""
    return next(each for each in tree if (each.schema, each.name) == (table.name.schema, table.name.table))


def _tree(
    table: EncryptedTable, facts: Sequence[Any], columns: Mapping[int, Mapping[str, Column]]
) -> tuple[Relation, ...] | PreflightError:
    if not facts:
        return PreflightError(f"table {table.name} is not in the database; {CORRECT_TABLES}, or create the table")
    found = []
    for oid, *others in facts:
        present = columns[oid]
        places = [table.place(name) for name in table.columns]
        missing = [column for column in (*table.read_columns, *table.index_columns) if column not in present]
        declared = tuple(_column(table, each, present) for each in places) if not missing else ()
        numbers = {column.place.name: number for number, column in enumerate(declared)}
        indexes = tuple(
            IndexedColumn(each, numbers[each.of], present[each.odd], present[each.even])
            for each in table.indexes
            if each.of in numbers
        )
        fields: list[Any] = [oid, *others, declared, indexes]
        relation = Relation(*fields)
        if missing:
            return PreflightError(f"column {missing[0]} is not in table {relation.label}; {CORRECT_TABLES}")
        found.append(relation)
    return tuple(found)


def _column(table: EncryptedTable, place: Place, present: Mapping[str, Column]) -> Column:
    """Returns a place with the columns of its row that are read with it."""
    template = parsed_template(table.format.aad) if table.format.is_read_with_data else None
    pieces = () if template is None else template.pieces(table.name.table, place.column)
    bound = tuple(present[each.text] if each.in_row else each.text for each in pieces)
    return replace(
        present[place.column],
        place=place,
        when=present.get(place.when),
        shape=mac_of(table.format.spec).shape if place.when and table.format.identified_by is IdentifiedBy.MAC else "",
        of_bytes=table.format.is_binary,
        iv=present.get(place.iv),
        bound=bound,
        row_key=present.get(table.format.row),
        beside=tuple(present[each] for each in place.beside),
    )
