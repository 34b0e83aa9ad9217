"""Searches a part of everything that is not declared, one span of pages at a time.

Findings stay recorded with their pages until these are searched again and contain none. Large objects have no pages
that could be searched one by one: they are searched all at once, and so is a foreign table.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import (
    catalog_search,
    discovery,
    page_readings,
)
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import create_tables_for
from keyrotation_pipeline.adapters.postgres.inventory.page_readings import ALL_PAGES
from keyrotation_pipeline.adapters.postgres.inventory.scans import between_pages
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, PreflightError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn


@dataclass(frozen=True, slots=True)
class _LargeObjects:
    """All large objects, treated as one relation."""

    oid: int = catalog_search.LARGE_OBJECTS
    label: str = "large objects"
    recorded_as: str = "large objects"
    scope: str = ""
    has_pages: bool = False


_Place = discovery.SearchedRelation | _LargeObjects


def spans(connection: Connection, tables: Sequence[EncryptedTable]) -> Iterator[PageSpan]:
    """Records new spans, and yields every span of what is searched as it is now."""
    yield from page_readings.spans_of(connection, page_readings.ELSEWHERE, _places(connection, tables))


def unsearched_since(connection: Connection) -> datetime | None:
    """Returns the time since which something may not have been searched, by the stored records; fast."""
    return page_readings.oldest(connection, [page_readings.ELSEWHERE]).get(page_readings.ELSEWHERE)


def search_spans(
    connection: Connection,
    tables: Sequence[EncryptedTable],
    wanted: Sequence[PageSpan],
    should_continue: Callable[[], bool],
    duty_cycle: float,
) -> int:
    """Searches these spans and records what each holds, as `page_readings.read_spans` does."""
    value_format = discovery.format_of_home(tables)
    create_tables_for(connection, value_format)

    def search(place: _Place, pages: tuple[int, int]) -> Mapping[str, int]:
        return _found(_search(connection, place, value_format, *pages))

    places = _places(connection, tables)
    return page_readings.read_spans(
        connection, page_readings.ELSEWHERE, places, wanted, search, should_continue, duty_cycle
    )


def search_everything(connection: Connection, tables: Sequence[EncryptedTable]) -> tuple[FoundColumn, ...]:
    """Searches everything, and records that and the findings; skips locked relations."""
    noted, places = [], _places(connection, tables)
    page_readings.forget_others(connection, page_readings.ELSEWHERE, places)
    for place in places:
        with suppress(psycopg.errors.LockNotAvailable):  # its size is queried
            page_readings.plan(connection, page_readings.ELSEWHERE, place)
            there = page_readings.pages_of(connection, place)
            noted.append((place, there, *page_readings.file_and_time(connection, place)))
    findings = discovery.discover(connection, tables)
    for place, there, file, began_at in noted:
        found = _found([each for each in findings if each.relation == place.label])
        page_readings.record(connection, page_readings.ELSEWHERE, place, file, ALL_PAGES, began_at, found, there)
    return findings


def _places(connection: Connection, tables: Sequence[EncryptedTable]) -> list[_Place]:
    return [*discovery.searched(connection, tables), _LargeObjects()]


def _search(
    connection: Connection, place: _Place, value_format: ValueFormat, first: int, end_page: int
) -> Sequence[FoundColumn]:
    try:
        if isinstance(place, _LargeObjects):
            return tuple(catalog_search.in_large_objects(connection, value_format))
        pages = between_pages(first, end_page) if place.has_pages else sql.SQL("")
        return discovery.search(connection, place, pages, value_format)
    except (BlockedError, PreflightError) as error:
        return (FoundColumn(place.label, "*", 0, 0, (), str(error)),)


def _found(findings: Sequence[FoundColumn]) -> Mapping[str, int]:
    found: Counter[str] = Counter()
    for each in findings:
        found[each.column] += each.values + each.near_misses
    return found
