"""Counts old values by reading the rows; no constraint can answer this count."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import places, search_indexes
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import sql_of
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import in_full, in_full_under
from keyrotation_pipeline.adapters.postgres.inventory.registered_versions import registered
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.inventory.row_key import row_key
from keyrotation_pipeline.adapters.postgres.inventory.scans import countable, from_page, heap_scan
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable

# PostgreSQL allows 1664 expressions in one SELECT; more need another scan.
_COUNTS_PER_SCAN = 1600
# The newest registered versions: nearly all values are under one of them.
_MOST_EXPECTED = 2

# What is counted (see `Tally`), its key there, and the aggregate.
_Figure = tuple[str, object, sql.Composable]


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of values in one table: `old` by column and version, `unencrypted` by column; zeros are left out.

    `unindexed`, by column: values without a search index under their own version. `encrypted`, by column that is to be
    of its old form again: values under any version, the present one too.

    `values` counts all that are neither NULL nor ``''``. A damaged value with the prefix of an old version counts as
    old, as in the fence, and as unencrypted.
    """

    values: int = 0
    old: Counter[tuple[str, KeyVersion]] = field(default_factory=Counter)
    unencrypted: Counter[str] = field(default_factory=Counter)
    unindexed: Counter[str] = field(default_factory=Counter)
    encrypted: Counter[str] = field(default_factory=Counter)


def count_old_values(
    connection: Connection,
    table: EncryptedTable,
    versions: Sequence[KeyVersion],
    first_pages: Mapping[int, int] = MappingProxyType({}),
) -> Tally:
    """Counts the values of a table that are under `versions`, and those that are not encrypted, by reading every row.

    The conditions are in FILTER, never in WHERE, so that the planner cannot use a fence.

    Args:
        first_pages: by oid, the page at which reading a relation starts, if not the first.

    Raises:
        PreflightError, BlockedError: the table cannot be read to its end, or has rows outside heaps.
    """
    found = {kind: Counter[Any]() for kind in ("values", "old", "unencrypted", "unindexed", "encrypted")}
    expected = registered(connection)[-_MOST_EXPECTED:]
    for relation in countable(connection, table):
        figures = list(_figures(table, relation, versions, expected))
        for kind, key, number in _counted(connection, relation, figures, first_pages.get(relation.oid, 0)):
            found[kind][key] += number
    by_column = (+found[kind] for kind in ("old", "unencrypted", "unindexed", "encrypted"))
    return Tally(found["values"].total(), *by_column)


_UNENCRYPTED = (
    "SELECT {key} FROM ONLY {relation} AS t {where} (SELECT {number} FROM (SELECT t.*) AS one) > 0 LIMIT {most}"
)


def unencrypted_rows(
    connection: Connection, table: EncryptedTable, column: str, first_pages: Mapping[int, int], most: int
) -> tuple[str, ...]:
    """Returns the keys of some rows with a value in this place that is not encrypted; see `count_old_values`."""
    found: list[str] = []
    for relation in countable(connection, table):
        place = next(each for each in relation.columns if each.place.name == column)
        begins = from_page(first_pages.get(relation.oid, 0))
        query = sql.SQL(_UNENCRYPTED).format(
            key=row_key(connection, relation).of("t"),
            relation=relation.identifier,
            where=sql.SQL("{} AND").format(begins) if begins.as_string() else sql.SQL("WHERE"),
            number=places.number(place, sql_of(table.format).unencrypted),
            most=sql.Literal(most - len(found)),
        )
        with heap_scan(connection, relation.label, relation.oid):
            found += [str(key) for (key,) in connection.execute(query).fetchall()]
    return tuple(found)


def _figures(
    table: EncryptedTable, relation: Relation, versions: Sequence[KeyVersion], expected: Sequence[KeyVersion]
) -> Iterator[_Figure]:
    values = sql_of(table.format)
    for column in relation.columns:
        name = column.place.name
        yield "values", name, places.number(column, sql.SQL("octet_length({}) > 0").format)
        yield "unencrypted", name, places.number(column, lambda text: values.unencrypted(text, expected))
        if column.place.given_back:
            yield "encrypted", name, places.number(column, lambda text: in_full(text, expected))
        for version in versions:
            under = in_full_under if column.place.source else values.under
            yield "old", (name, version), places.number(column, partial(under, versions=[version]))
    for index in relation.indexes:
        missing = sql.SQL("count(*) FILTER (WHERE {})").format(search_indexes.unindexed(relation, index))
        yield "unindexed", index.index.of, missing


def _counted(
    connection: Connection, relation: Relation, figures: Sequence[_Figure], first_page: int
) -> Iterator[tuple[str, object, int]]:
    for first in range(0, len(figures), _COUNTS_PER_SCAN):
        some = figures[first : first + _COUNTS_PER_SCAN]
        query = sql.SQL("SELECT {} FROM ONLY {} {}").format(
            sql.SQL(", ").join(figure for *_, figure in some), relation.identifier, from_page(first_page)
        )
        with heap_scan(connection, relation.label, relation.oid):
            row = connection.execute(query).fetchone() or ()
        for (kind, key, _), number in zip(some, row, strict=True):
            yield kind, key, int(str(number))
