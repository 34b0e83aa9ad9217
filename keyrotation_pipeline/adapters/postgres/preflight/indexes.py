"""Preflight checks of the columns of search indexes."""

from collections.abc import Iterator
from typing import cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory.relations import (
    PLAIN_TEXTS,
    Column,
    IndexedColumn,
    Relation,
    root,
)
from keyrotation_pipeline.adapters.postgres.inventory.samples import TABLE_SAMPLE_BYTES
from keyrotation_pipeline.adapters.postgres.inventory.scans import heap_scan, of_a_sample
from keyrotation_pipeline.adapters.postgres.preflight.table import Subject, fatal, warning
from keyrotation_pipeline.fieldcrypto.grammar import PREFIX_PATTERN
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.tables import SearchIndex

# With less, different texts have the same index often enough for somebody to meet it.
_LEAST_UNIQUE_BYTES = 16

_LENIENT = """
SELECT a.attname FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation
WHERE a.attrelid = %s::bigint::oid AND a.attname = ANY (%s) AND NOT c.collisdeterministic ORDER BY a.attname
"""

_REQUIRED = """
SELECT attname FROM pg_attribute
WHERE attrelid = %s::bigint::oid AND attname = ANY (%s) AND attnotnull ORDER BY attname
"""

# The key columns of each unique index, by name; its expressions and condition; whether a second NULL is a duplicate.
_UNIQUE = """
SELECT c.relname, key.names,
       concat_ws(' where ', pg_get_expr(i.indexprs, i.indrelid), pg_get_expr(i.indpred, i.indrelid)),
       coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid,
     LATERAL (SELECT array_agg(a.attname::text ORDER BY k.place) AS names
              FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
              JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
              WHERE k.place <= i.indnkeyatts) AS key
WHERE i.indrelid = %s::bigint::oid AND i.indisunique AND i.indisvalid AND NOT c.relispartition AND key.names IS NOT NULL
ORDER BY c.relname
"""
_Unique = tuple[str, list[str], str, bool]

# Columns of text that nothing is declared of, of PostgreSQL's own types: others could have an output of their own.
_OTHER_TEXT = """
SELECT attname FROM pg_attribute
WHERE attrelid = %s::bigint::oid AND attnum > 0 AND NOT attisdropped
  AND atttypid IN ('text'::regtype, 'varchar'::regtype) AND attname <> ALL (%s)
ORDER BY attnum
"""
# A version and 32 bytes, which no encrypted value looks like. Short indexes look like any text.
_ODD, _EVEN = "^v[0-9]*[13579]x?:", "^v[0-9]*[02468]x?:"
_INDEX = f"^{PREFIX_PATTERN}[A-Za-z0-9+/]{{43}}=$"

# Of blind_index for Ruby, by its naming alone: nothing in such an index says what it is.
_OF_BLIND_INDEX = """
SELECT attname FROM pg_attribute
WHERE attrelid = %s::bigint::oid AND attnum > 0 AND NOT attisdropped AND attname ~ '_bidx(_v[0-9]+)?$'
ORDER BY attnum
"""


def search_indexes_are_declared(subject: Subject) -> Iterator[Problem]:
    """Warns of columns of search indexes that are not declared: searches would miss every re-encrypted row."""
    if subject.table.format.has_keys_of_columns:
        yield from _of_blind_index(subject)
    if not subject.table.format.names_versions:
        return
    for relation in subject.heaps:
        rows = subject.connection.execute(_OTHER_TEXT, (relation.oid, subject.written_columns)).fetchall()
        names = [str(name) for (name,) in rows]
        for name in names and _holding_indexes(subject, relation, names):
            yield warning(
                f"column {relation.label}.{name} holds what looks like undeclared search indexes, so searches would "
                f"miss re-encrypted rows; declare them in indexes of [[tables]] {subject.table.name} (`keyrotation "
                "docs search-indexes`)"
            )


def _of_blind_index(subject: Subject) -> Iterator[Problem]:
    declared = root(subject.relations, subject.table)  # whose columns its partitions have, too
    for (name,) in subject.connection.execute(_OF_BLIND_INDEX, (declared.oid,)).fetchall():
        if name in subject.written_columns:
            continue
        yield warning(
            f"column {declared.label}.{name} is named like a search index, which finds no row under a new master "
            f"key; declare it in indexes of [[tables]] {subject.table.name}. If it is to keep the present key, "
            "set BLIND_INDEX_MASTER_KEY to that first (`keyrotation docs search-indexes`)"
        )


def _holding_indexes(subject: Subject, relation: Relation, names: list[str]) -> list[str]:
    figures = [
        sql.SQL('coalesce(bool_or(octet_length({0}) < 60 AND {0}::text COLLATE "C" ~ {1}), false)').format(
            sql.Identifier(name), sql.Literal(_INDEX)
        )
        for name in names
    ]
    with heap_scan(subject.connection, relation.label, relation.oid):
        query = sql.SQL("SELECT {} FROM ONLY {} {}").format(
            sql.SQL(", ").join(figures),
            relation.identifier,
            of_a_sample(subject.connection, relation.oid, TABLE_SAMPLE_BYTES, len(subject.heaps)),
        )
        found = cast("tuple[bool, ...]", subject.connection.execute(query).fetchone())
    return [name for name, holds in zip(names, found, strict=True) if holds]


def search_indexes_can_be_kept(subject: Subject) -> Iterator[Problem]:
    """Requires both columns of each search index to take it, and NULL."""
    for relation in subject.relations:
        names = [column.name for index in relation.indexes for column in index.columns]
        for (name,) in subject.connection.execute(_REQUIRED, (relation.oid, names)).fetchall():
            yield fatal(
                f"column {relation.label}.{name} of a search index is NOT NULL, but is empty under every other key; "
                f"ALTER TABLE {subject.quoted(*relation.parts)} ALTER COLUMN {subject.quoted(str(name))} DROP NOT NULL"
            )
        for (name,) in subject.connection.execute(_LENIENT, (relation.oid, names)).fetchall():
            yield fatal(
                f"column {relation.label}.{name} of a search index has a collation by which different texts are equal; "
                f"ALTER TABLE {subject.quoted(*relation.parts)} ALTER COLUMN {subject.quoted(str(name))} TYPE text "
                'COLLATE "C"'
            )
        for index in relation.indexes:
            for column in index.columns:
                yield from _fits(relation, index.index, column)


def search_index_columns_hold_nothing_else(subject: Subject) -> Iterator[Problem]:
    """Refuses columns with other text: somebody has declared the wrong column, and its content would be in the way."""
    for relation in subject.heaps:
        names = {each.name: odd for index in relation.indexes for each, odd in ((index.odd, True), (index.even, False))}
        forms = {each.name: index.index.form for index in relation.indexes for each in index.columns}
        # Of the other column an index would be written over, while everybody relies on it.
        others = [
            sql.SQL('count(*) FILTER (WHERE {0}::text COLLATE "C" !~ {1} OR {0}::text COLLATE "C" !~ {2})').format(
                sql.Identifier(name),
                sql.Literal(f"^{forms[name].pattern}$"),
                sql.Literal((_ODD if odd else _EVEN) if forms[name].names_versions else ""),
            )
            for name, odd in names.items()
        ]
        if not others:
            continue
        query = sql.SQL("SELECT {} FROM ONLY {}").format(sql.SQL(", ").join(others), relation.identifier)
        with heap_scan(subject.connection, relation.label, relation.oid):
            found = cast("tuple[int, ...]", subject.connection.execute(query).fetchone())
        for name, number in zip(names, found, strict=True):
            if number:
                parity = "odd" if names[name] else "even"
                yield fatal(
                    f"column {relation.label}.{name} is declared for search indexes under {parity} key versions, "
                    f"and holds other text in {counted(number, 'row')}; correct indexes in keyrotation.toml, or "
                    "remove that text"
                )


def _fits(relation: Relation, index: SearchIndex, column: Column) -> Iterator[Problem]:
    place = f"column {relation.label}.{column.name} of the search index of {index.of}"
    if column.generated:
        yield fatal(f"{place} is generated, so it cannot be written; make it an ordinary column")
    elif column.type_oid not in PLAIN_TEXTS:
        yield fatal(f"{place} is of type {column.type_sql}; make it text")
    elif column.max_chars is not None and column.max_chars < index.form.longest_chars:
        yield fatal(
            f"{place} holds {column.max_chars} characters, and an index may have {index.form.longest_chars}; widen it, "
            "or make it text"
        )


def unique_search_indexes_come_in_pairs(subject: Subject) -> Iterator[Problem]:
    """Requires a unique index on one of the two columns to be on the other one, too: they take turns."""
    for relation in subject.relations:
        rows = subject.connection.execute(_UNIQUE, (relation.oid,)).fetchall()
        unique = cast("list[_Unique]", rows)
        for index in relation.indexes:
            yield from _pairs(subject, relation, index, unique)


def _pairs(subject: Subject, relation: Relation, index: IndexedColumn, unique: list[_Unique]) -> Iterator[Problem]:
    odd, even = (column.name for column in index.columns)
    for one, other in ((odd, even), (even, odd)):
        for name, columns, rest, nulls_are_equal in unique:
            if one not in columns:
                continue
            if nulls_are_equal:
                yield fatal(
                    f"unique index {name} of {relation.label} takes NULL once, and {one} is NULL in every row under "
                    "other keys; make it again without NULLS NOT DISTINCT"
                )
            wanted = [other if column == one else column for column in columns]
            replaced = rest.replace(subject.quoted(one), subject.quoted(other))
            if not any((each, more) == (wanted, replaced) for _, each, more, _ in unique):
                listed = ", ".join(map(subject.quoted, wanted))
                yield fatal(
                    f"unique index {name} of {relation.label} has no counterpart on {other}, which holds the search "
                    f"index of {index.index.of} under every other key; CREATE UNIQUE INDEX CONCURRENTLY ON "
                    f"{subject.quoted(*relation.parts)} ({listed})"
                    f"{', with the same expressions and condition' if rest else ''}"
                )
            if index.index.form.size_bytes < _LEAST_UNIQUE_BYTES:
                yield fatal(
                    f"unique index {name} of {relation.label} is on a search index of "
                    f"{index.index.form.size_bytes} bytes, which texts may share; drop it, or index at least "
                    f"{_LEAST_UNIQUE_BYTES} bytes"
                )
