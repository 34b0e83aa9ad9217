"""Tracks when pages were read, and which to read next, so that none stays unread for too long."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from keyrotation_pipeline.model.progress import AllowedHours

# A database of up to this size is read completely every day, which takes about a second.
LEAST_BYTES_A_DAY = 64 * 2**20
_A_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Verification:
    """In how many days every value is decrypted once, and at which hours; None: at any."""

    every_days: int = 90
    hours: AllowedHours | None = None


@dataclass(frozen=True, slots=True)
class PageSpan:
    """Pages of one relation that are read together, under one snapshot of their own.

    Args:
        table: the declared one, by its name; for undeclared data the relation itself.
        end_page: the first page after it.
        pages: those that exist now.
        size_bytes: of these, including TOAST.
        since: nothing in them is unread for longer: when they were read, else when they were created.
        read: whether these pages were ever read in the relation's present file.
        found: undeclared values that the last search found: how many, by column.
    """

    table: str
    relation: str
    first_page: int
    end_page: int
    pages: int
    size_bytes: int
    since: datetime
    read: bool
    found: Mapping[str, int] = field(default_factory=dict, hash=False)


def due(spans: Sequence[PageSpan], now: datetime, every_days: int) -> Iterator[PageSpan]:
    """What to read now, the longest unread first: the day's share, and whatever has no day left.

    The share is counted from midnight UTC, so that it does not matter how often this is called. It is slightly larger
    than necessary, so that nothing waits until its last day.
    """
    midnight = _midnight(now)
    share = max(LEAST_BYTES_A_DAY, -(-sum(each.size_bytes for each in spans) // max(every_days - 1, 1)))
    share -= sum(each.size_bytes for each in spans if each.read and each.since >= midnight)
    for span in sorted(spans, key=_in_turn):
        if span.read and span.since >= midnight:
            continue
        if share <= 0 and now + _A_DAY < span.since + timedelta(days=every_days):
            continue
        share -= span.size_bytes
        yield span


def to_search(spans: Sequence[PageSpan], now: datetime, every_days: int) -> Iterator[PageSpan]:
    """What to search now: first where something was found and the beginning of what is new, then `due`.

    So a copy of a table is found on the first day, and what was fixed is reported for at most one more day.
    """
    midnight = _midnight(now)
    found = [each for each in spans if each.found and each.since < midnight]
    new = [each for each in spans if not each.read and each.first_page == 0]
    first = dict.fromkeys([*found, *new])  # pages with findings may count as new again
    yield from first
    yield from (each for each in due(spans, now, every_days) if each not in first)


def _midnight(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def _in_turn(span: PageSpan) -> tuple[datetime, str, str, int]:
    return span.since, span.table, span.relation, span.first_page


@dataclass(frozen=True, slots=True)
class Reach:
    """How much was read.

    Args:
        read_pages: read within the days that were set.
        oldest: the earliest time since which something may be unread; None: there are no pages.
        late: tables with pages that are unread for longer than that.
        found: how many undeclared values, by ``relation.column``; also those found earlier, until they are seen to be
            gone.
    """

    pages: int
    read_pages: int
    oldest: datetime | None
    late: tuple[str, ...]
    found: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def complete(self) -> bool:
        """Whether every page was read in time."""
        return self.read_pages == self.pages

    @property
    def percent(self) -> float:
        """Rounded down, so that 100 is all."""
        return int(1000 * self.read_pages / self.pages) / 10 if self.pages else 100.0


def reach(spans: Sequence[PageSpan], now: datetime, every_days: int) -> Reach:
    """Sum up what was read within the last `every_days` days."""
    longest = timedelta(days=every_days)
    found: Counter[str] = Counter()
    for each in spans:
        found.update({f"{each.table}.{column}": number for column, number in each.found.items()})
    return Reach(
        pages=sum(each.pages for each in spans),
        read_pages=sum(each.pages for each in spans if each.read and now - each.since <= longest),
        oldest=min((each.since for each in spans), default=None),
        late=tuple(sorted({each.table for each in spans if now - each.since > longest})),
        found=found,
    )
