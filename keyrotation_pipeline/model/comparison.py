"""Encrypted values compared with a backup from before an exposure: what differs, by name, and what that rests on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar

from keyrotation_pipeline.model.audit import EventKind, Fact, utc_minute
from keyrotation_pipeline.model.records import Between
from keyrotation_pipeline.model.visible_text import visible

Count = Annotated[int, Between(0, 10**12)]


NO_WRITE = "no write"


class DifferenceKind(StrEnum):
    """How a value differs from the backup.

    `CHANGED`: another plaintext, or one of them does not decrypt. `NEW`: the backup has none. `GONE`: none is left.
    """

    CHANGED = "changed"
    NEW = "new"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that differs, named by table, row and column; never its content.

    Args:
        key: the row's key, a JSON array of its columns as text.
        unreadable: why the present value does not decrypt; None: it does, or there is none.
        recorded: which writes of the row the application's audit has, in words; None: it does not name such rows.
    """

    table: str
    key: str
    column: str
    kind: DifferenceKind
    unreadable: str | None = None
    recorded: str | None = None


@dataclass(frozen=True, slots=True)
class TableCompared:
    """One table that was compared.

    Args:
        rows, values: present ones.
        unreadable: differing present values that do not decrypt; also counted as changed or new.
        unrecorded: differences of rows that the application's audit, if it was asked, names no write of.
    """

    table: str
    rows: Count = 0
    values: Count = 0
    changed: Count = 0
    new: Count = 0
    gone: Count = 0
    unreadable: Count = 0
    unrecorded: Count = 0

    @property
    def differences(self) -> int:
        """Values that differ."""
        return self.changed + self.new + self.gone

    @property
    def equal(self) -> int:
        """Present values that the backup has, too."""
        return self.values - self.changed - self.new

    def __str__(self) -> str:
        """The differences, in words."""
        parts = [
            f"{self.changed:,} changed",
            f"{self.new:,} new",
            f"{self.gone:,} gone",
            *([f"{self.unreadable:,} of them not decrypting"] if self.unreadable else []),
            *([f"{self.unrecorded:,} without a write in the application's audit"] if self.unrecorded else []),
        ]
        return ", ".join(parts)

    def plus(self, difference: Difference) -> "TableCompared":
        """The same with one more difference."""
        name = str(difference.kind)
        return replace(
            self,
            **{name: getattr(self, name) + 1},
            unreadable=self.unreadable + (difference.unreadable is not None),
            unrecorded=self.unrecorded + (difference.recorded == NO_WRITE),
        )


@dataclass(frozen=True, slots=True)
class ValuesCompared(Fact):
    """Present values were compared with a backup from before an incident.

    Args:
        by: who had it done.
        at: when the comparison began: what was written since may be in it or not.
        backup: manifest of the backup's set.
        made_at: when that was made.
        place: where its files were read.
        tables: those that were compared.
        not_compared: what was not, and why, one phrase each.
        passed_over: newer backups from before the discovery that could not be used, one phrase each.
        audited: the application's audit that was asked for writes of the rows; None: none was, or it names no rows.
    """

    kind: ClassVar = EventKind.VALUES_COMPARED
    incident: str
    by: str
    at: datetime
    backup: str
    made_at: datetime
    place: str
    tables: tuple[TableCompared, ...]
    not_compared: tuple[str, ...]
    passed_over: tuple[str, ...]
    audited: str | None = None

    @property
    def differences(self) -> int:
        """Values that differ, in all tables."""
        return sum(each.differences for each in self.tables)

    def __str__(self) -> str:
        """In one line, as officers sign it."""
        values = sum(each.values for each in self.tables)
        left = f", {len(self.not_compared)} part(s) not compared" if self.not_compared else ""
        return (
            f"{utc_minute(self.at)}, with {visible(self.backup)} of {utc_minute(self.made_at)}: "
            f"{self.differences:,} difference(s), {values:,} present value(s) compared{left}"
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison in the audit; `seq`: of its event."""

    seq: int
    fact: ValuesCompared


NOT_COMPARED = "no"


def as_signed(comparisons: Sequence[Comparison], seq: int) -> str:
    """What the text of an emergency says of its incident's comparisons, as of one event of the audit."""
    by_then = [each.fact for each in comparisons if each.seq <= seq]
    if not by_then:
        return NOT_COMPARED
    earlier = f"; {len(by_then) - 1} earlier comparison(s)" if by_then[1:] else ""
    return f"yes, {by_then[-1]}{earlier}"


def comparison_lines(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """What reports say of an incident's comparisons: of each, what it found and what it does not say."""
    if not comparisons:
        yield (
            "Values compared with a backup: no; values that somebody planted with the exposed key would be authentic "
            "under the new one"
        )
    for each in comparisons:
        fact = each.fact
        yield f"Values compared with a backup by {fact.by} {fact}"
        yield from (f"In {table.table}: {table}" for table in fact.tables if table.differences)
        yield from (f"Not compared: {phrase}" for phrase in fact.not_compared)
        yield from (f"Newer backup not used: {phrase}" for phrase in fact.passed_over)
        asked = "was not asked" if fact.audited is None else f"({fact.audited}) was asked for writes of the rows"
        yield f"The application's audit {asked}; whoever can write to the database may have written to it"
