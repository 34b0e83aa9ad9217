"""The status of a fleet in a few lines, however many databases it has."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.member_answers import MemberAnswer
from keyrotation_pipeline.model.progress import TableProgress
from keyrotation_pipeline.model.status import Status, TableStatus
from keyrotation_pipeline.model.tables import TableName

MOST_NAMED = 3


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
            needs_people=tuple(_needs(status)),
            asked_at=min((each.asked_at for each in answers.values()), default=None)
            if answers.keys() >= status.members.keys()
            else None,
        )

    @property
    def in_words(self) -> str:
        """``40 databases, 38 re-encrypted, slowest north at 35%; see to south, west``."""
        done = "" if self.done is None else f", {self.done} re-encrypted"
        slowest = "" if self.done is None or self.slowest is None else ", slowest {} at {:.0%}".format(*self.slowest)
        more = len(self.needs_people) - MOST_NAMED
        named = ", ".join(self.needs_people[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        people = f"; see to {named}" if named else ""
        return f"{self.databases} databases{done}{slowest}{people}"


def _shares(tables: Sequence[TableProgress]) -> dict[str, float]:
    """The share of each database that is re-encrypted: the mean of its tables."""
    found = defaultdict[str, list[float]](list)
    for each in tables:
        found[TableName.parse(each.table).database].append(each.share)
    return {name: sum(shares) / len(shares) for name, shares in found.items()}


def _needs(status: Status) -> dict[str, list[str]]:
    """What is to be done about each member that needs somebody, in sentences."""
    needs = defaultdict[str, list[str]](list)
    for name in status.members:
        answer = status.answers.get(name)
        if answer is not None and answer.problem is not None:
            needs[name].append(answer.problem.removeprefix(f"database {name}: "))
    for said in status.attention:
        if " more)" in said:  # the same of many, of which it names the first
            continue
        for name in ("".join(pair) for pair in re.findall(r"\b([\w-]+):|\bdatabase ([\w-]+)", said)):
            if name in status.members and not any(each in said for each in needs[name]):
                needs[name].append(said)
    return {name: needs[name] for name in status.members if needs[name]}


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One database of a fleet.

    Args:
        name: empty: the home's own.
        place: as officers signed it; empty: the home's own.
        answer: of when it was last asked; None: never, or the home's own, which is asked at each look.
        tables: each declared one.
        share: the share of it that the open walk has re-encrypted, 0 to 1; None: the walk is not at the rows.
        needs: what is to be done about it, in sentences.
    """

    name: str
    place: str
    answer: MemberAnswer | None
    tables: tuple[TableStatus, ...]
    share: float | None
    needs: tuple[str, ...]

    @property
    def state(self) -> str:
        """Whether it answered, in a few words."""
        if not self.name:
            return "the home's own"
        if self.answer is None:
            return "not asked yet"
        return "answers" if self.answer.problem is None else "does not answer, or cannot be used"

    @property
    def rows(self) -> int | None:
        """Of all its tables, when last counted; None: not every one was."""
        counts = [each.count for each in self.tables]
        return sum(each.rows for each in counts if each is not None) if all(counts) else None

    @property
    def counted_at(self) -> datetime | None:
        """When the table was counted that was counted longest ago; None: not every one was."""
        at = [each.count.counted_at for each in self.tables if each.count is not None]
        return min(at) if at and len(at) == len(self.tables) else None

    @property
    def refuses(self) -> str:
        """What every one of its tables refuses."""
        refused = [set(each.fenced_against) for each in self.tables]
        return ", ".join(map(str, sorted(set.intersection(*refused)))) if refused else ""


def databases_of(status: Status) -> list[MemberStatus]:
    """Every database of a fleet: those first that need somebody, then those that are least re-encrypted."""
    tables = defaultdict[str, list[TableStatus]](list)
    for each in status.tables:
        tables[each.table.name.database].append(each)
    shares = _shares(() if status.rotation is None else status.rotation.tables)
    at_rows, needs = any(shares.values()), _needs(status)
    found = [
        MemberStatus(
            name,
            status.members.get(name, ""),
            status.answers.get(name),
            tuple(tables[name]),
            shares.get(name) if at_rows else None,
            tuple(needs.get(name, ())),
        )
        for name in {*tables, *status.members}
    ]
    return sorted(found, key=lambda each: (not each.needs, 1.0 if each.share is None else each.share, each.name))


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
