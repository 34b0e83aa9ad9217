"""Searching a part of everything that is not declared at a time, each span of pages under a short snapshot of its own.

What was found stays noted with its pages, until these are searched and are without it. Large objects have no pages that
could be searched each by itself: they are searched all at once. So is a foreign table.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.inventory import catalog_search, discovery, page_readings
from keyrotation_pipeline.adapters.postgres.inventory.page_readings import ALL_PAGES
from keyrotation_pipeline.adapters.postgres.inventory.scans import between_pages
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, PreflightError
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn

CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class _LargeObjects:
    """All large objects, as if they were one relation."""

    oid: int = catalog_search.LARGE_OBJECTS
    label: str = "large objects"
    noted_as: str = "large objects"
    look: str = ""
    has_pages: bool = False


_Place = discovery.Place | _LargeObjects


def spans(connection: Connection, tables: Sequence[EncryptedTable]) -> Iterator[PageSpan]:
    """Write down what is new, and give every span of what is searched as it is now."""
    yield from page_readings.spans_of(connection, page_readings.ELSEWHERE, _places(connection, tables))


def unsearched_since(connection: Connection) -> datetime | None:
    """Since when something may not have been searched, by what was last written down; quick."""
    return page_readings.oldest(connection, [page_readings.ELSEWHERE]).get(page_readings.ELSEWHERE)


def search_spans(
    connection: Connection,
    tables: Sequence[EncryptedTable],
    wanted: Sequence[PageSpan],
    go_on: Callable[[], bool],
    duty_cycle: float,
) -> int:
    """Search these spans and note down what each holds; returns the number of pages.

    Args:
        go_on: asked before each span, whether it may still be read now.
        duty_cycle: the share of the time in which the database is kept busy.
    """
    places, pages, whole = {place.noted_as: place for place in _places(connection, tables)}, 0, set[str]()
    for span in wanted:
        place = places.get(span.relation)
        if place is None or span.relation in whole:
            continue
        if not go_on():
            break
        began = CLOCK.monotonic()
        file, began_at = page_readings.file_and_time(connection, place)
        if not place.has_pages:
            whole.add(span.relation)
        of_it = (span.first_page, span.end_page) if place.has_pages else ALL_PAGES
        found = _found(_search(connection, place, *of_it))
        page_readings.record(
            connection, page_readings.ELSEWHERE, place, file, of_it, began_at, found, span.first_page + span.pages
        )
        pages += span.pages
        CLOCK.sleep((CLOCK.monotonic() - began) * (1 / duty_cycle - 1))
    return pages


@dataclass(frozen=True, slots=True)
class Begun:
    """What a search of everything has to note down at its end: each relation as it was before."""

    places: tuple[tuple[_Place, int, str, datetime], ...]


def begin(connection: Connection, tables: Sequence[EncryptedTable]) -> Begun:
    """Before everything is searched; nothing where there is no place to note it down, and of what is locked."""
    if not page_readings.are_kept(connection):
        return Begun(())
    noted, places = [], _places(connection, tables)
    page_readings.forget_others(connection, page_readings.ELSEWHERE, places)
    for place in places:
        with suppress(psycopg.errors.LockNotAvailable):  # its size is asked
            page_readings.plan(connection, page_readings.ELSEWHERE, place)
            there = page_readings.pages_of(connection, place)
            noted.append((place, there, *page_readings.file_and_time(connection, place)))
    return Begun(tuple(noted))


def end(connection: Connection, begun: Begun, findings: Sequence[FoundColumn]) -> None:
    """Note down that everything was searched, and what was found where."""
    for place, there, file, began_at in begun.places:
        found = _found([each for each in findings if each.relation == place.label])
        page_readings.record(connection, page_readings.ELSEWHERE, place, file, ALL_PAGES, began_at, found, there)


def _places(connection: Connection, tables: Sequence[EncryptedTable]) -> list[_Place]:
    return [*discovery.places(connection, tables), _LargeObjects()]


def _search(connection: Connection, place: _Place, first: int, end_page: int) -> Sequence[FoundColumn]:
    try:
        if isinstance(place, _LargeObjects):
            return tuple(catalog_search.in_large_objects(connection))
        pages = between_pages(first, end_page) if place.has_pages else sql.SQL("")
        return discovery.search(connection, place, pages)
    except (BlockedError, PreflightError) as error:
        return (FoundColumn(place.label, "*", 0, 0, (), str(error)),)


def _found(findings: Sequence[FoundColumn]) -> Mapping[str, int]:
    found: Counter[str] = Counter()
    for each in findings:
        found[each.column] += each.values + each.near_misses
    return found
