"""Which pages were read when, and which are to be read next, so that none stays unread for too long."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from keyrotation_pipeline.model.progress import AllowedHours

# A database of up to so much is read whole every day: that takes about a second.
LEAST_BYTES_A_DAY = 64 * 2**20
_A_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Verification:
    """Within how many days every value is to be decrypted once, and at which hours; None: at any."""

    every_days: int = 90
    hours: AllowedHours | None = None


@dataclass(frozen=True, slots=True)
class PageSpan:
    """Pages of one relation that are read together, under one snapshot of their own.

    Args:
        table: the declared one, by its name; of what is searched elsewhere the relation itself.
        end_page: the first page that is not in it any more.
        pages: those that there are at this moment.
        size_bytes: of these, with what lies outside of the pages (TOAST).
        since: nothing in them is older and unread: when they were read, else when they came into being.
        read: whether these pages were ever read in the file that the relation has now.
        found: what was found when they were last searched and should not be there: by column, how many values.
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
    """What is to be read now, the longest unread first: the day's share, and whatever has no day left.

    The share is counted from midnight UTC, so that it does not matter how often somebody asks. It is a little larger
    than it had to be, so that nothing waits until its last day.
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
    """What is to be searched now: `due`, and before it where something was found, and the beginning of what is new.

    So a copy of a table is found on the first day, and what was mended is said to be there for a day at most.
    """
    midnight = _midnight(now)
    found = [each for each in spans if each.found and each.since < midnight]
    new = [each for each in spans if not each.read and each.first_page == 0]
    first = dict.fromkeys([*found, *new])  # what was found may be in pages that are new again, since others came
    yield from first
    yield from (each for each in due(spans, now, every_days) if each not in first)


def _midnight(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def _in_turn(span: PageSpan) -> tuple[datetime, str, str, int]:
    return span.since, span.table, span.relation, span.first_page


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the reading is.

    Args:
        read_pages: read within the days that were set.
        oldest: the earliest time since when something may be unread; None: there are no pages.
        late: tables with pages that are unread for longer than that.
        found: what should not be there: how many values, by ``relation.column``; those found earlier too, until they
            are seen to be gone.
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
