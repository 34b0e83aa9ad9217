"""Counts exactly what the declared columns hold, by one scan per relation; and rows written since a promotion.

A count that groups by the values' classes is planned as one serial aggregate, since the server expects as many groups
as values. Counting by FILTER is one parallel scan, and requires knowing the versions in advance. So this counts the
registered versions and those of the first rows by FILTER, and takes the result only if it accounts for every value of
that same scan; else it groups.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from math import inf
from time import monotonic
from typing import cast

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory import places, relations
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import NamingSql, naming_sql_of, sql_of
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import (
    EMPTY,
    NEAR_MISS,
    UNENCRYPTED,
    UNNAMED,
)
from keyrotation_pipeline.adapters.postgres.inventory.registered_versions import listed_versions, registered
from keyrotation_pipeline.adapters.postgres.inventory.relations import Column, Relation
from keyrotation_pipeline.adapters.postgres.inventory.scans import countable, heap_scan
from keyrotation_pipeline.adapters.postgres.inventory.search_indexes import any_unindexed
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable, OldRows, TableCount

# PostgreSQL allows 1664 expressions in one SELECT.
_MOST_FIGURES = 1600
# Each version is one more comparison per value; beyond this many, grouping costs no more.
_MOST_VERSIONS = 8
_FIRST_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Counted:
    """The rows of one relation and, by column, how many values of each class (`grammar_sql.value_class`)."""

    rows: int
    classes: Mapping[str, Counter[int]]


def counted_by_filters(connection: Connection, relation: Relation, table: EncryptedTable) -> Counted | None:
    """Counts in one scan; returns None if a value is not encrypted, or under a version that was not expected.

    Raises:
        PreflightError, BlockedError: the relation cannot be read to its end.
    """
    format_sql = naming_sql_of(table.format)
    versions = _expected(connection, relation, format_sql)
    if len(versions) > _MOST_VERSIONS or len(table.columns) * (3 + len(versions)) > _MOST_FIGURES:
        return None
    with heap_scan(connection, relation.label, relation.oid):
        found = connection.execute(filters(relation, format_sql, versions)).fetchone()
    rows, *figures = cast("tuple[int, ...]", found)
    size = 3 + len(versions)
    classes: dict[str, Counter[int]] = {}
    for number, column in enumerate(table.columns):
        values, empty, bad, *by_version = figures[number * size : (number + 1) * size]
        # Without bad values each one is empty or well-formed under one version, so prefixes distinguish them.
        if bad or values != empty + sum(by_version):
            return None
        classes[column] = +Counter({EMPTY: empty, **{v.code: n for v, n in zip(versions, by_version, strict=True)}})
    return Counted(rows, classes)


def filters(relation: Relation, values: NamingSql, versions: Sequence[KeyVersion]) -> sql.Composed:
    """Returns the query: rows, then for each place its values, the empty, the bad, and those under each version."""
    figures = (figure for column in relation.columns for figure in _figures(column, values, versions))
    counts = [sql.SQL("count(*)"), *figures]
    return sql.SQL("SELECT {} FROM ONLY {}").format(sql.SQL(", ").join(counts), relation.identifier)


def _figures(column: Column, values: NamingSql, versions: Sequence[KeyVersion]) -> Iterator[sql.Composable]:
    yield places.number(column, sql.SQL("{} IS NOT NULL").format)
    yield places.number(column, sql.SQL("octet_length({}) = 0").format)
    yield places.number(column, lambda text: sql.SQL("{} < 0").format(values.value_class(text, versions)))
    yield from (places.number(column, partial(values.under, versions=[version])) for version in versions)


def _expected(connection: Connection, relation: Relation, values: NamingSql) -> tuple[KeyVersion, ...]:
    """Returns the registered versions, and those of the first rows."""
    numbers = sql.SQL(" UNION ").join(_first_numbers(relation, column, values) for column in relation.columns)
    with heap_scan(connection, relation.label, relation.oid):
        seen = connection.execute(numbers).fetchall()
    found = {KeyVersion.of_code(int(str(n))) for (n,) in seen if n}
    return tuple(sorted(found.union(registered(connection))))


def _first_numbers(relation: Relation, column: Column, values: NamingSql) -> sql.Composed:
    elements = sql.SQL(", {}").format(places.each_value(column))
    return sql.SQL("SELECT DISTINCT {} FROM (SELECT {} FROM ONLY {} LIMIT {}) AS first{}").format(
        values.number_named(sql.SQL("each.text") if column.place.elements else places.text(column)),
        places.stored(column),
        relation.identifier,
        sql.Literal(_FIRST_ROWS),
        elements if column.place.elements else sql.SQL(""),
    )


_XIDS = 2**32

# A row that this snapshot sees was written by a transaction below the snapshot's xmax. So a row was written since the
# promotion if the distance from the promotion to its 32-bit xmin is smaller than the distance to the snapshot's xmax.
# The ids 1 and 2 are markers, not transactions. (A frozen row keeps its xmin, so a row that was frozen about 2^32
# transactions ago can be taken for a new one; a new row is never taken for an old one.)
WRITTEN_SINCE = """xmin::text::bigint > 2 AND
    (xmin::text::bigint - {promotion} % {xids} + {xids}) % {xids}
    < pg_snapshot_xmax(pg_current_snapshot())::text::bigint - {promotion}"""


def old_rows(
    connection: Connection, table: EncryptedTable, versions: Sequence[KeyVersion], promotion_xid: int | None
) -> OldRows:
    """Counts rows with a value under `versions` in any declared column, or plaintext that is to be encrypted.

    As in the fence, the prefix decides, but in columns that held plaintext.

    Args:
        versions: the old versions; without versions the count is zero.
        promotion_xid: full transaction id of the promotion. None: nothing was promoted, so no row was written since.

    Raises:
        As `count`.
    """
    rows = since = plaintext = 0
    if not versions:
        return OldRows(rows, since)
    query = sql.SQL("SELECT count(*), count(*) FILTER (WHERE {since}) FROM ONLY {relation} WHERE {old}")
    for relation in countable(connection, table):
        with heap_scan(connection, relation.label, relation.oid):
            found = connection.execute(
                query.format(
                    since=written_since(promotion_xid),
                    relation=relation.identifier,
                    old=_is_under(table, relation, versions),
                )
            ).fetchone()
            plaintext += _plaintext_rows(connection, relation)
        relation_rows, relation_since = cast("tuple[int, int]", found)
        rows, since = rows + relation_rows, since + relation_since
    return OldRows(rows, since, plaintext=plaintext)


def rows_seen(connection: Connection, table: EncryptedTable, version: KeyVersion, seconds: float) -> int | None:
    """Counts rows with a value under a version, as `old_rows` does; None if that takes longer than so many seconds.

    Raises:
        As `count`.
    """
    until, rows = monotonic() + seconds, 0
    for relation in countable(connection, table):
        seen = _is_under(table, relation, [version])
        query = sql.SQL("SELECT count(*) FROM ONLY {} WHERE {}").format(relation.identifier, seen)
        with heap_scan(connection, relation.label, relation.oid):
            try:
                if until < inf:
                    left_ms = max(1, round(1000 * (until - monotonic())))
                    connection.execute(f"SET LOCAL statement_timeout = {left_ms}".encode())
                rows += cast("tuple[int]", connection.execute(query).fetchone())[0]
            except psycopg.errors.QueryCanceled:
                if until == inf:
                    raise
                return None
    return rows


def _is_under(table: EncryptedTable, relation: Relation, versions: Sequence[KeyVersion]) -> sql.Composed:
    under = sql_of(table.format).under
    return sql.SQL(" OR ").join(places.is_under(column, versions, under) for column in relation.columns)


def _plaintext_rows(connection: Connection, relation: Relation) -> int:
    begun = [places.is_plaintext(column) for column in relation.columns if column.place.source]
    if not begun:
        return 0
    query = sql.SQL("SELECT count(*) FROM ONLY {} WHERE {}").format(relation.identifier, sql.SQL(" OR ").join(begun))
    return cast("tuple[int]", connection.execute(query).fetchone())[0]


def unindexed_rows(connection: Connection, table: EncryptedTable, target: KeyVersion | None = None) -> int:
    """Counts rows with a value that has no search index under its own version.

    Args:
        target: under which each needs one, where they name no version.

    Raises:
        As `count`.
    """
    rows = 0
    for relation in countable(connection, table) if table.indexes else ():
        unindexed = any_unindexed(relation, target=target)
        query = sql.SQL("SELECT count(*) FROM ONLY {} WHERE {}").format(relation.identifier, unindexed)
        with heap_scan(connection, relation.label, relation.oid):
            rows += cast("tuple[int]", connection.execute(query).fetchone())[0]
    return rows


def written_since(promotion_xid: int | None) -> sql.Composable:
    """Returns whether a row was written by this full transaction id or a later one; None: no row was."""
    if promotion_xid is None:
        return sql.SQL("false")
    return sql.SQL(WRITTEN_SINCE).format(promotion=sql.Literal(promotion_xid), xids=sql.Literal(_XIDS))


def count_by_names(connection: Connection, table: EncryptedTable) -> TableCount | None:
    """Counts a table, but not its fence, by the keys that its values name; None if one names no key known here.

    `by_column` has every declared column, `unencrypted_by_column` those with at least one such value.

    Raises:
        PreflightError: the table is missing, cannot be read, or has rows outside heaps.
        BlockedError: another session has locked it.
    """
    counted_at = cast("tuple[datetime]", connection.execute("SELECT clock_timestamp()").fetchone())[0]
    classes = {column: Counter[int]() for column in table.columns}
    rows = 0
    for relation in countable(connection, table):
        counted = counted_by_filters(connection, relation, table) or _counted_by_groups(connection, relation, table)
        rows += counted.rows
        for column, classes_found in counted.classes.items():
            classes[column].update(classes_found)
    if any(counts[UNNAMED] for counts in classes.values()):
        return None
    _list_few_versions(classes, registered(connection))
    total = sum(classes.values(), Counter())
    return TableCount(
        table=table,
        rows=rows,
        values_by_version=_by_version(total),
        empty=total[EMPTY],
        unencrypted=_unencrypted(total),
        near_misses=total[NEAR_MISS],
        unreadable=_unreadable(connection, table),
        fenced_against=(),
        counted_at=counted_at,
        by_column={column: _by_version(counts) for column, counts in classes.items()},
        unencrypted_by_column={column: n for column, counts in classes.items() if (n := _unencrypted(counts))},
    )


def _list_few_versions(classes: Mapping[str, Counter[int]], known: Sequence[KeyVersion]) -> None:
    """Counts values as near-misses instead, if they are under more versions than `listed_versions` lists."""
    found = {KeyVersion.of_code(number) for counts in classes.values() for number in counts if number > 0}
    listed = {version.code for version in listed_versions(found, known)}
    for counts in classes.values():
        for number in [number for number in counts if number > 0 and number not in listed]:
            counts[NEAR_MISS] += counts.pop(number)


def _counted_by_groups(connection: Connection, relation: Relation, table: EncryptedTable) -> Counted:
    """Counts whatever is there, under any version; twice as expensive as by filters, and never parallel."""
    classes: dict[str, Counter[int]] = {column: Counter() for column in table.columns}
    single = [column for column in relation.columns if not column.place.elements]
    rows = 0
    for *row_classes, row_count in _histogram(connection, relation, single, naming_sql_of(table.format)):
        rows += row_count
        for column, value_kind in zip(single, row_classes, strict=False):  # without a column, one class that is NULL
            if value_kind is not None:
                classes[column.place.name][value_kind] += row_count
    for column in relation.columns:
        if column.place.elements:
            classes[column.place.name].update(_elements(connection, relation, column, naming_sql_of(table.format)))
    return Counted(rows, classes)


def _elements(connection: Connection, relation: Relation, column: Column, values: NamingSql) -> Mapping[int, int]:
    query = sql.SQL("SELECT {}, count(*) FROM ONLY {} AS counted, {} WHERE each.text IS NOT NULL GROUP BY 1").format(
        values.value_class(sql.SQL("each.text")), relation.identifier, places.each_value(column)
    )
    with heap_scan(connection, relation.label, relation.oid):
        return dict(cast("list[tuple[int, int]]", connection.execute(query).fetchall()))


def _histogram(
    connection: Connection, relation: Relation, columns: Sequence[Column], values: NamingSql
) -> list[tuple[int, ...]]:
    # Rows are grouped by the classes of all their columns: there are few groups, however many rows.
    classes = [
        sql.SQL("{} AS {}").format(values.value_class(places.text(column)), sql.Identifier(f"k{number}"))
        for number, column in enumerate(columns)
    ]
    if not classes:
        classes = [sql.SQL("NULL AS {}").format(sql.Identifier("k0"))]
    keys = sql.SQL(", ").join(sql.Identifier(f"k{number}") for number in range(len(classes)))
    query = sql.SQL("SELECT {keys}, count(*) FROM (SELECT {classes} FROM ONLY {relation}) AS judged GROUP BY {keys}")
    with heap_scan(connection, relation.label, relation.oid):
        found = connection.execute(
            query.format(keys=keys, classes=sql.SQL(", ").join(classes), relation=relation.identifier)
        ).fetchall()
    return cast("list[tuple[int, ...]]", found)


def _by_version(counts: Counter[int]) -> dict[KeyVersion, int]:
    return {KeyVersion.of_code(number): counts[number] for number in sorted(counts) if number > 0}


def _unencrypted(counts: Counter[int]) -> int:
    return counts[UNENCRYPTED] + counts[NEAR_MISS]


def _unreadable(connection: Connection, table: EncryptedTable) -> int:
    there = connection.execute(own("SELECT to_regclass('keyrotation.quarantine') IS NOT NULL")).fetchone()
    if there != (True,):
        return 0
    query = own("SELECT count(*) FROM keyrotation.quarantine WHERE table_name = %s")
    return cast("tuple[int]", connection.execute(query, (str(table.name),)).fetchone())[0]


def written_rows(connection: Connection, tables: Sequence[EncryptedTable]) -> Mapping[str, int]:
    """Returns rows inserted and updated in each table since the server's statistics started, by the table's name.

    The statistics are reset by `pg_stat_reset` and by a crash of the server; the numbers are then too low.
    """
    return {str(table.name): _written(connection, table) for table in tables}


def _written(connection: Connection, table: EncryptedTable) -> int:
    oids = [relation.oid for relation in relations.tree(connection, table)]
    row = connection.execute(
        "SELECT coalesce(sum(n_tup_ins + n_tup_upd), 0)::bigint FROM pg_stat_all_tables WHERE relid = ANY(%s::oid[])",
        (oids,),
    ).fetchone()
    return int(str(row[0])) if row else 0
