"""Counts a relation by FILTER, in one parallel scan, if all values are under known versions.

A count that groups by the values' classes is planned as one serial aggregate, since the server expects as many groups
as values. Counting by FILTER requires knowing the versions in advance. So this counts the registered versions and those
of the first rows; the result is returned only if it accounts for every value of that same scan.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory import places
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import EMPTY, number_named, under, unencrypted
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
_THERE = own("SELECT to_regclass('keyrotation.key_versions') IS NOT NULL")
_REGISTERED = own("SELECT version FROM keyrotation.key_versions WHERE version BETWEEN 1 AND 999999")
# Far more than a ledger can be behind its data.
MOST_UNREGISTERED = 20


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
    versions = _expected(connection, relation)
    if len(versions) > _MOST_VERSIONS or len(table.columns) * (3 + len(versions)) > _MOST_FIGURES:
        return None
    with heap_scan(connection, relation.label, relation.oid):
        found = connection.execute(filters(relation, versions)).fetchone()
    rows, *figures = cast("tuple[int, ...]", found)
    size = 3 + len(versions)
    classes: dict[str, Counter[int]] = {}
    for number, column in enumerate(table.columns):
        values, empty, bad, *by_version = figures[number * size : (number + 1) * size]
        # Without bad values each one is empty or well-formed under one version, so prefixes distinguish them.
        if bad or values != empty + sum(by_version):
            return None
        classes[column] = +Counter({EMPTY: empty, **{v.number: n for v, n in zip(versions, by_version, strict=True)}})
    return Counted(rows, classes)


def filters(relation: Relation, versions: Sequence[KeyVersion]) -> sql.Composed:
    """Returns the query: rows, then for each place its values, the empty, the bad, and those under each version."""
    counts = [sql.SQL("count(*)"), *(figure for column in relation.columns for figure in _figures(column, versions))]
    return sql.SQL("SELECT {} FROM ONLY {}").format(sql.SQL(", ").join(counts), relation.identifier)


def _figures(column: Column, versions: Sequence[KeyVersion]) -> Iterator[sql.Composable]:
    yield places.number(column, sql.SQL("{} IS NOT NULL").format)
    yield places.number(column, sql.SQL("octet_length({}) = 0").format)
    yield places.number(column, lambda text: unencrypted(text, versions))
    yield from (places.number(column, partial(under, versions=[version])) for version in versions)


def _expected(connection: Connection, relation: Relation) -> tuple[KeyVersion, ...]:
    """Returns the registered versions, and those of the first rows."""
    numbers = sql.SQL(" UNION ").join(_first_numbers(relation, column) for column in relation.columns)
    with heap_scan(connection, relation.label, relation.oid):
        seen = connection.execute(numbers).fetchall()
    found = {KeyVersion(int(str(n))) for (n,) in seen if n is not None}
    return tuple(sorted(found.union(registered(connection))))


def _first_numbers(relation: Relation, column: Column) -> sql.Composed:
    elements = sql.SQL(", {}").format(places.each_value(column, places.stored(column)))
    return sql.SQL("SELECT DISTINCT {} FROM (SELECT {} FROM ONLY {} LIMIT {}) AS first{}").format(
        number_named(sql.SQL("each.text") if column.place.elements else places.text(column)),
        places.stored(column),
        relation.identifier,
        sql.Literal(_FIRST_ROWS),
        elements if column.place.elements else sql.SQL(""),
    )


def registered(connection: Connection) -> tuple[KeyVersion, ...]:
    """Returns the versions that events have registered: a hint at what most values are under, not a trusted fact."""
    ((there,),) = connection.execute(_THERE).fetchall()
    rows = (
        connection.execute(
            own("SELECT version FROM keyrotation.key_versions WHERE version BETWEEN 1 AND 999999")
        ).fetchall()
        if there
        else []
    )
    return tuple(sorted(KeyVersion(int(str(number))) for (number,) in rows))


def listed_versions(found: Collection[KeyVersion], known: Collection[KeyVersion]) -> tuple[KeyVersion, ...]:
    """Returns the versions that a count or a finding names: the registered ones and a few others, in order.

    Whoever can write to a table can use a million versions, and every count is recorded, signed and displayed. Of the
    others the lowest are named, which come next in turn, and the highest, since no number is used twice.

    Args:
        found: versions of values.
        known: the registered versions.
    """
    others = sorted(set(found).difference(known))
    if len(others) > MOST_UNREGISTERED:
        others = [*others[: MOST_UNREGISTERED - 1], others[-1]]
    return tuple(sorted({*others, *set(found).intersection(known)}))
