"""How the text and bytes in a column of any type are read, by built-in functions alone.

A cast, an output function or an operator that somebody defined is never called: text and bytes are taken as they are,
json, jsonb, xml, citext and hstore through their output functions, which are C code that a superuser installed.
Containers (domains, arrays, composites, ranges) are taken apart.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.server.connection import Connection

# Elements of one array that are read.
_MOST_ELEMENTS = 64
_DEEPEST = 5
_BUILT_IN = "pg_catalog"


class Kind(Enum):
    """What a reader returns."""

    TEXT = auto()
    BYTES = auto()
    JSON = auto()
    XML = auto()
    HSTORE = auto()


_KINDS = {
    (_BUILT_IN, "text"): Kind.TEXT,
    (_BUILT_IN, "varchar"): Kind.TEXT,
    (_BUILT_IN, "bpchar"): Kind.TEXT,
    (_BUILT_IN, "name"): Kind.TEXT,
    (_BUILT_IN, "bytea"): Kind.BYTES,
    (_BUILT_IN, "json"): Kind.JSON,
    (_BUILT_IN, "jsonb"): Kind.JSON,
    (_BUILT_IN, "xml"): Kind.XML,
    ("citext", "citext"): Kind.TEXT,
    ("hstore", "hstore"): Kind.HSTORE,
}
_BITS = {"bit", "varbit"}
# Categories of built-in types that hold neither text nor bytes are all others; of other types, these.
_NO_TEXT_CATEGORIES = frozenset("NBDGITE")


@dataclass(frozen=True, slots=True)
class Type:
    """A type.

    Args:
        home: ``pg_catalog``, else the extension that it belongs to, else empty.
        inside: the type below a domain, of an array's elements, of a range's bounds, or of a multirange's ranges.
        fields: of a composite type.
    """

    oid: int
    name: str
    home: str
    type: str
    category: str
    inside: int
    fields: Sequence[tuple[str, int]]

    @property
    def is_array(self) -> bool:
        """Whether it is an array type."""
        return self.type == "b" and self.category == "A" and self.inside != 0


@dataclass(frozen=True, slots=True)
class Reader:
    """How a part of a column is read.

    Args:
        path: to the part: fields of composites, bounds of ranges.
        value: an SQL expression.
        sources: what an array's elements come from; the value is then one of each.
    """

    kind: Kind
    value: sql.Composable
    path: tuple[str, ...] = ()
    sources: tuple[sql.Composable, ...] = ()
    extension: bool = False

    @property
    def elements(self) -> bool:
        """Whether it reads elements of an array."""
        return bool(self.sources)

    def expression(self, *, unchecked: bool) -> sql.Composed:
        """Returns the SQL expression: text or bytea, or an array of them.

        Args:
            unchecked: the database's encoding is SQL_ASCII, so that text may be anything, and is read as bytes.
        """
        value = sql.Composed([self.value])
        if self.kind is Kind.BYTES:
            value = sql.SQL("({})::bytea").format(value)
        elif self.kind is Kind.TEXT and not self.extension:
            value = sql.SQL("({})::text").format(value)
        else:  # concat() calls the type's own output function, where a cast might be one that somebody defined
            value = sql.SQL("CASE WHEN pg_column_size({}) IS NOT NULL THEN concat({}) END").format(value, value)
        if unchecked and self.kind is not Kind.BYTES:
            value = sql.SQL("convert_to({}, 'SQL_ASCII')").format(value)
        if not self.sources:
            return value
        return sql.SQL("ARRAY(SELECT {} FROM {} LIMIT {})").format(
            value, sql.SQL(", ").join(self.sources), sql.Literal(_MOST_ELEMENTS)
        )


_TYPES = """
WITH RECURSIVE contains(outside, inside) AS (
    SELECT oid, typbasetype FROM pg_type WHERE typtype = 'd'
    UNION ALL SELECT oid, typelem FROM pg_type WHERE typtype = 'b' AND typcategory = 'A' AND typelem <> 0
    UNION ALL SELECT rngtypid, rngsubtype FROM pg_range
    {multiranges}
    UNION ALL SELECT t.oid, a.atttypid FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid
              WHERE t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
), reached(oid) AS (
    SELECT unnest(%s::oid[])
    UNION
    SELECT inside FROM reached JOIN contains ON outside = oid
)
SELECT t.oid::bigint, t.typname::text,
       CASE WHEN n.nspname = 'pg_catalog' AND t.oid < 16384 THEN 'pg_catalog' ELSE coalesce(
           (SELECT e.extname::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
            WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
              AND d.refclassid = 'pg_extension'::regclass), '') END,
       t.typtype::text, t.typcategory::text,
       coalesce((SELECT min(c.inside::bigint) FROM contains c WHERE c.outside = t.oid AND t.typtype <> 'c'), 0),
       (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
       (SELECT array_agg(a.atttypid::bigint ORDER BY a.attnum) FROM pg_attribute a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)
FROM reached r JOIN pg_type t ON t.oid = r.oid JOIN pg_namespace n ON n.oid = t.typnamespace
"""
_MULTIRANGES = "UNION ALL SELECT rngmultitypid, rngtypid FROM pg_range"
_WITH_MULTIRANGES = 140000


def load_types(connection: Connection, oids: Sequence[int]) -> Mapping[int, Type]:
    """Returns these types, and those inside them."""
    multiranges = sql.SQL(_MULTIRANGES if connection.info.server_version >= _WITH_MULTIRANGES else "")
    rows = connection.execute(sql.SQL(_TYPES).format(multiranges=multiranges), (list(oids),)).fetchall()
    types = {}
    for oid, name, home, kind, category, inside, names, field_types in cast("list[tuple[Any, ...]]", rows):
        fields = tuple(zip(names or (), field_types or (), strict=True))
        types[oid] = Type(oid, name, home, kind, category, inside, fields)
    return types


def readers_of(types: Mapping[int, Type], oid: int, column: sql.Composable) -> Iterator[Reader | str]:
    """Yields how to read the text and bytes in a column, and why a part is not; nothing where there can be none."""
    yield from _readers(types, types[oid], Reader(Kind.TEXT, column), 0)


def _readers(types: Mapping[int, Type], this: Type, so_far: Reader, depth: int) -> Iterator[Reader | str]:
    if depth > _DEEPEST:
        yield f"its type is nested more than {_DEEPEST} times"
    elif (kind := _KINDS.get((this.home, this.name))) is not None and this.type == "b":
        yield replace(so_far, kind=kind, extension=this.home != _BUILT_IN)
    elif this.is_array or this.type == "m":
        yield from _element_readers(types, types[this.inside], so_far, depth)
    elif this.type == "d":
        yield from _readers(types, types[this.inside], so_far, depth + 1)
    elif this.type == "r":
        for bound in ("lower", "upper"):
            value = sql.SQL("{}({})").format(sql.SQL(bound), so_far.value)
            inner = replace(so_far, value=value, path=(*so_far.path, bound))
            yield from _readers(types, types[this.inside], inner, depth + 1)
    elif this.type == "c":
        for name, field in this.fields:
            value = sql.SQL("({}).{}").format(so_far.value, sql.Identifier(name))
            inner = replace(so_far, value=value, path=(*so_far.path, name))
            yield from _readers(types, types[field], inner, depth + 1)
    elif reason := _reason(this):
        yield reason


def _element_readers(types: Mapping[int, Type], element: Type, so_far: Reader, depth: int) -> Iterator[Reader | str]:
    alias = f"element{len(so_far.sources)}"
    base = element
    while base.type == "d":
        base = types[base.inside]
    # unnest() of composites yields a row per element, whose columns are the fields.
    form = "unnest({}) AS {}" if base.type == "c" else "unnest({}) AS {} (value)"
    source = sql.SQL(form).format(so_far.value, sql.Identifier(alias))
    if base.type != "c":
        value: sql.Composable = sql.Identifier(alias, "value")
        inner = replace(so_far, value=value, sources=(*so_far.sources, source))
        yield from _readers(types, element, inner, depth + 1)
        return
    for name, field in base.fields:
        inner = replace(
            so_far,
            value=sql.Identifier(alias, name),
            path=(*so_far.path, name),
            sources=(*so_far.sources, source),
        )
        yield from _readers(types, types[field], inner, depth + 1)


def _reason(this: Type) -> str | None:
    """Why a type is not read that may hold text or bytes; None: it holds none."""
    if this.name in _BITS and this.home == _BUILT_IN:
        return "bit strings are not read"
    if this.home == _BUILT_IN or this.type == "e" or this.category in _NO_TEXT_CATEGORIES:
        return None
    owner = f"the extension {this.home}" if this.home else "this database"
    return f"values of {this.name}, a type of {owner}, are not read"
