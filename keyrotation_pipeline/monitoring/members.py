"""Asks the members of a fleet what people see of them, each rarely, and says what they answered.

Sensors, the console and `status` show recorded answers, with their age; whatever decides or is signed asks anew.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from keyrotation_pipeline.errors import AtWorkError
from keyrotation_pipeline.model.audit import counted, utc_minute
from keyrotation_pipeline.model.environment import SILENT, BlindSpots, Unsearched
from keyrotation_pipeline.model.member_answers import MemberAnswer
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.ports.database import AskMember, DatabaseEnvironment
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation.fences import as_retired, last_change, must_refuse, no_longer_declared

ASKED_EVERY = timedelta(minutes=15)
# By a person, who may have repaired it.
RETRIED_AFTER = timedelta(seconds=30)
OLD_AFTER = timedelta(hours=1)
LOCK = "members"
MOST_NAMED = 3
# Dagster waits for a tick of a sensor for a minute, and a server that is gone takes ten seconds.
TICK_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Asked:
    """How many members were asked, and how many are still to be."""

    members: int
    left: int

    def __str__(self) -> str:
        rest = f"; {self.left} more are due" if self.left else ""
        return f"asked {counted(self.members, 'database')}{rest}" if self.members or self.left else "none is due"


def ask_due(
    pipeline: Pipeline, *, by_person: bool = False, afresh: bool = False, seconds: float | None = None
) -> Asked:
    """Asks the members that are due, one after the other, and records what they answer.

    What another process asks at the same time is left to it.

    Args:
        by_person: ask those with a problem again sooner.
        afresh: ask all.
        seconds: begin with no further one after so long; the others are next.
    """
    ask = pipeline.ask_member
    if ask is None:
        return Asked(0, 0)
    with pipeline.ledger.reading():
        is_due = bool(_due(pipeline, by_person=by_person, afresh=afresh))
    if is_due:
        with suppress(AtWorkError), pipeline.ledger.lock(LOCK):
            return _ask(pipeline, ask, seconds, by_person=by_person, afresh=afresh)
    return Asked(0, 0)


def _ask(pipeline: Pipeline, ask: AskMember, seconds: float | None, *, by_person: bool, afresh: bool) -> Asked:
    found, until = list[MemberAnswer](), None if seconds is None else pipeline.clock.monotonic() + seconds
    with pipeline.ledger.reading():  # one transaction, however many members there are
        due, before = _due(pipeline, by_person=by_person, afresh=afresh), pipeline.ledger.answers()
        tables = _by_member(as_retired(pipeline.ledger, pipeline.tables))
        others = defaultdict[str, list[str]](list)
        for name in no_longer_declared(pipeline.tables, must_refuse(pipeline.ledger)):
            others[TableName.parse(name).database].append(name)
        for name in due:
            if until is not None and pipeline.clock.monotonic() > until:
                break
            answer = ask(name, tables[name], others[name])
            last = before[name].answered_at if name in before else None
            found.append(answer if answer.answered_at else replace(answer, answered_at=last))
    pipeline.ledger.save_answers(found)
    return Asked(len(found), len(due) - len(found))


def _by_member(tables: Iterable[EncryptedTable]) -> Mapping[str, Sequence[EncryptedTable]]:
    """The declared tables of each member."""
    found = defaultdict[str, list[EncryptedTable]](list)
    for table in tables:
        found[table.name.database].append(table)
    return found


def _due(pipeline: Pipeline, *, by_person: bool, afresh: bool) -> Sequence[str]:
    """The members to ask now, those first that were asked longest ago."""
    answers, now, changed = pipeline.ledger.answers(), pipeline.clock.now(), last_change(pipeline.ledger)
    tables = {name: {str(table.name) for table in own} for name, own in _by_member(pipeline.tables).items() if name}
    never = datetime.min.replace(tzinfo=now.tzinfo)
    asked_at = {name: answers[name].asked_at if name in answers else never for name in tables}

    def is_due(name: str) -> bool:
        if afresh or name not in answers or not timedelta() <= now - asked_at[name] < ASKED_EVERY:
            return True
        answer = answers[name]
        if answer.problem is not None:
            return by_person and now - answer.asked_at >= RETRIED_AFTER
        return answer.audit_seq < changed or not tables[name] <= {*answer.fences, *answer.unseen}

    return sorted(filter(is_due, tables), key=lambda name: (asked_at[name], name))


def present(ledger: Ledger, answers: Mapping[str, MemberAnswer]) -> Mapping[str, MemberAnswer]:
    """Those answers that say how it is: no table has been fenced, or the contrary, since."""
    changed = last_change(ledger)
    return {name: each for name, each in answers.items() if each.audit_seq >= changed}


def answers_of(pipeline: Pipeline) -> Mapping[str, MemberAnswer]:
    """What the present members of a fleet answered last; of a single database there are none."""
    if not pipeline.members:
        return {}
    answers = pipeline.ledger.answers()
    return {name: answers[name] for name in pipeline.members if name in answers}


def problems(answers: Mapping[str, MemberAnswer]) -> Iterator[str]:
    """A sentence for each member that does not answer or cannot be used; one for all where they are many."""
    found = [each for each in answers.values() if each.problem is not None]
    if len(found) > MOST_NAMED:
        names = ", ".join(sorted(each.member for each in found))
        yield f"{len(found)} databases do not answer, or cannot be used ({names}); the first: {found[0].problem}"
        return
    for each in found:
        why = str(each.problem).removeprefix(f"database {each.member}: ")
        yield f"what database {each.member} refuses was not seen: {why}"


def not_asked(members: Sequence[str], answers: Mapping[str, MemberAnswer], now: datetime) -> Iterator[str]:
    """A sentence where members were not asked for a while."""
    never = [name for name in members if name not in answers]
    old = [name for name in members if name in answers and now - answers[name].asked_at > OLD_AFTER]
    if never or old:
        since = min((answers[name].asked_at for name in old), default=None)
        when = "was ever asked" if since is None else f"was asked since {utc_minute(since)}"
        yield (
            f"none of {_some([*never, *old])} {when}, so what is shown of them may be out of date; run `keyrotation "
            "status`, or `keyrotation up`, whose sensor member_check asks them"
        )


_NAMED = re.compile(r"\b(?:table|database) ([^\s;,]+)")


def grouped(messages: Iterable[str]) -> Iterator[str]:
    """The messages, with those that say the same of many tables or databases as one: the first, and how many more."""
    alike = defaultdict[str, list[str]](list)
    for each in messages:
        alike[_NAMED.sub("", each, count=1)].append(each)
    for found in alike.values():
        named = _NAMED.search(found[0])
        if len(found) > MOST_NAMED and named is not None:
            yield f"{found[0][: named.end()]} (and {len(found) - 1:,} more){found[0][named.end() :]}"
        else:
            yield from found


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {counted(more, 'more database')}" if more > 0 else "")


def blind_spots(environment: DatabaseEnvironment, answers: Iterable[MemberAnswer]) -> BlindSpots:
    """What is not searched in the home's own database, and was not in members when they were asked."""
    own = environment.own_blind_spots()
    unsearched = list(own.unsearched)
    for each in answers:
        spots = each.unsearched if each.problem is None else (Unsearched(SILENT, member=each.member),)
        unsearched += [spot for spot in spots if replace(spot, member="") not in own.unsearched]
    return replace(own, unsearched=tuple(unsearched))
