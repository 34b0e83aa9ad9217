"""Counts a relation by FILTER, in one parallel scan, if all values are under known versions.

A count that groups by the values' classes is planned as one serial aggregate, since the server expects as many groups
as values. Counting by FILTER requires knowing the versions in advance. So this counts the registered versions and those
of the first rows; the result is returned only if it accounts for every value of that same scan.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import places
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import NamingSql, naming_sql_of
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import EMPTY
from keyrotation_pipeline.adapters.postgres.inventory.registered_versions import registered
from keyrotation_pipeline.adapters.postgres.inventory.relations import Column, Relation
from keyrotation_pipeline.adapters.postgres.inventory.scans import heap_scan
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable

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
