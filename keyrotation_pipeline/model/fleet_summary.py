"""The status of a fleet in a few lines, however many databases it has."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.progress import TableProgress
from keyrotation_pipeline.model.status import Status, TableStatus
from keyrotation_pipeline.model.tables import TableName


@dataclass(frozen=True, slots=True)
class FleetSummary:
    """Every database of a fleet, the home's own among them if it has tables.

    Args:
        done: how many of them the open walk has re-encrypted; None: it is not at the rows.
        slowest: the one of which the smallest share is re-encrypted, and that share, 0 to 1; None: all are done.
        needs_people: members that `attention` names, or that did not answer.
        asked_at: when the member was asked that was asked longest ago; None: not every one was.
    """

    databases: int
    done: int | None
    slowest: tuple[str, float] | None
    needs_people: tuple[str, ...]
    asked_at: datetime | None

    @classmethod
    def of(cls, status: Status) -> "FleetSummary":
        """The summary of a status."""
        names = {table.table.name.database for table in status.tables} | set(status.members)
        shares = _shares(() if status.rotation is None else status.rotation.tables)
        left = {name: share for name, share in shares.items() if share < 1}
        slowest = min(left, key=lambda name: (left[name], name), default=None)
        answers = status.answers
        return cls(
            databases=len(names),
            done=len(shares) - len(left) if any(shares.values()) else None,
            slowest=None if slowest is None else (slowest or "the home's own", left[slowest]),
            needs_people=tuple(_named(status)),
            asked_at=min((each.asked_at for each in answers.values()), default=None)
            if answers.keys() >= status.members.keys()
            else None,
        )

    @property
    def in_words(self) -> str:
        """``40 databases, 38 re-encrypted, slowest north at 35%; see to south, west``."""
        done = "" if self.done is None else f", {self.done} re-encrypted"
        slowest = "" if self.done is None or self.slowest is None else ", slowest {} at {:.0%}".format(*self.slowest)
        people = f"; see to {', '.join(self.needs_people)}" if self.needs_people else ""
        return f"{self.databases} databases{done}{slowest}{people}"


def _shares(tables: Sequence[TableProgress]) -> dict[str, float]:
    """The share of each database that is re-encrypted: the mean of its tables."""
    found = defaultdict[str, list[float]](list)
    for each in tables:
        found[TableName.parse(each.table).database].append(each.share)
    return {name: sum(shares) / len(shares) for name, shares in found.items()}


def _named(status: Status) -> Iterator[str]:
    # What is the same of many names the first of them alone.
    said = "\n".join(each for each in status.attention if " more)" not in each)
    words = set(re.findall(r"\b([\w-]+):|\bdatabase ([\w-]+)", said))
    named = {name for pair in words for name in pair if name}
    for name in status.members:
        answer = status.answers.get(name)
        if name in named or (answer is not None and answer.problem is not None):
            yield name


@dataclass(frozen=True, slots=True)
class TableInFleet:
    """One table in every database that has it.

    Args:
        databases: how many have it.
        rows: of those that were counted; `values_by_version`, `unencrypted` and `unreadable` likewise.
        counted_at: when the one was counted that was counted longest ago; None: not every one was.
        refused: each version that any of them refuses, and how many do.
    """

    name: TableName
    databases: int
    rows: int
    values_by_version: dict[KeyVersion, int]
    unencrypted: int
    unreadable: int
    counted_at: datetime | None
    refused: dict[KeyVersion, int]

    @property
    def refuses(self) -> str:
        """``v1, v2 (3 of 40)``; ``-``: nothing."""
        by_all = (
            str(each) if number == self.databases else f"{each} ({number} of {self.databases})"
            for each, number in sorted(self.refused.items())
        )
        return ", ".join(by_all) or "-"


def tables_in_fleet(tables: Sequence[TableStatus]) -> list[TableInFleet]:
    """Each table once."""
    found = defaultdict[TableName, list[TableStatus]](list)
    for table in tables:
        found[table.table.name.in_any_database].append(table)
    return [_together(name, parts) for name, parts in found.items()]


def _together(name: TableName, parts: Sequence[TableStatus]) -> TableInFleet:
    counts = [each.count for each in parts if each.count is not None]
    values, refused = defaultdict[KeyVersion, int](int), defaultdict[KeyVersion, int](int)
    for each in parts:
        for version, number in each.values_by_version.items():
            values[version] += number
        for version in each.fenced_against:
            refused[version] += 1
    return TableInFleet(
        name,
        len(parts),
        sum(each.rows for each in counts),
        dict(values),
        sum(each.unencrypted for each in counts),
        sum(each.unreadable for each in counts),
        min(each.counted_at for each in counts) if len(counts) == len(parts) else None,
        dict(refused),
    )
