"""Rolling verification: reads each page of the database again within a set number of days, a part each day.

Every value of encrypted tables is decrypted; everything else is searched for undeclared values.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyrotation_pipeline.errors import AtWorkError
from keyrotation_pipeline.model.member_answers import MemberAnswer
from keyrotation_pipeline.model.page_reading import PageSpan, Reach, due, reach, to_search
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.requests import RequestStatus, Step
from keyrotation_pipeline.ports.database import TableInventory
from keyrotation_pipeline.ports.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class RollingCheck:
    """One of the two: which pages it reads, in what order, and how.

    Args:
        lock: held by the process that reads.
        spans: all pages, and when each was read; new ones are recorded.
        due: those to be read now.
        read: reads them while allowed; returns how many values or pages were read.
    """

    lock: str
    spans: Callable[[Pipeline], Sequence[PageSpan]]
    due: Callable[[Sequence[PageSpan], datetime, int], Iterable[PageSpan]]
    read: Callable[[Pipeline, Sequence[PageSpan], Report], int]


def how_far(pipeline: Pipeline, check: RollingCheck) -> Reach:
    """How much was read within the set number of days; new pages are recorded."""
    return reach(check.spans(pipeline), pipeline.clock.now(), pipeline.verification.every_days)


def due_now(pipeline: Pipeline, check: RollingCheck) -> tuple[PageSpan, ...]:
    """What is to be read at this moment; nothing outside the allowed hours, or while a rotation reads everything."""
    if not _may_read(pipeline):
        return ()
    spans = check.spans(pipeline)
    return tuple(check.due(spans, pipeline.clock.now(), pipeline.verification.every_days))


def read_what_is_due(pipeline: Pipeline, check: RollingCheck, report: Report) -> int:
    """Reads what is due; returns the number of values decrypted, or of pages searched.

    It stops where the allowed hours end, and continues from there the next time. What another process is
    reading is left to it.
    """
    try:
        with pipeline.ledger.lock(check.lock):
            spans = due_now(pipeline, check)
            return check.read(pipeline, spans, report) if spans else 0
    except AtWorkError:
        return 0


def undeclared(inventory: TableInventory, searched: Reach) -> Mapping[str, int]:
    """How many values each undeclared column holds, by ``relation.column``.

    From what was recorded when it was last searched, and from the present definitions in the catalogue.
    """
    found = Counter(searched.found)
    for each in inventory.definitions_found():
        found[f"{each.relation}.{each.column}"] += each.values
    return found


def overdue(pipeline: Pipeline, answers: Collection[MemberAnswer], now: datetime) -> list[str]:
    """A sentence for each table with pages unread for too long, and for what is not declared.

    Args:
        answers: of the members of a fleet.
    """
    days, inventory = pipeline.verification.every_days, pipeline.inventory
    unread = dict(inventory.unread_since(pipeline.own_tables))
    for each in answers:
        unread |= each.unread_since
    late = [
        f"not every value of {table} was decrypted since {since:%Y-%m-%d} ({days} days are set); give "
        "rolling_decrypt more hours, duty_cycle or workers, or run `keyrotation verify`"
        for table, since in sorted(unread.items())
        if now - since > timedelta(days=days)
    ]
    noted = (inventory.unsearched_since(), *(each.unsearched_since for each in answers))
    since = min((each for each in noted if each is not None), default=None)
    if since is not None and now - since > timedelta(days=days):
        late.append(
            f"undeclared places were not all searched since {since:%Y-%m-%d} ({days} days are set); give "
            "rolling_decrypt more hours or duty_cycle, or run `keyrotation inventory`"
        )
    return late


def _may_read(pipeline: Pipeline) -> bool:
    """Whether it is within the hours, and no rotation rewrites the rows, whose proof will read all of them."""
    hours, walk = pipeline.verification.hours, pipeline.ledger.current()
    if hours is not None and not hours.include(pipeline.clock.now()):
        return False
    if walk is None or walk.status is not RequestStatus.RUNNING:
        return True
    return not walk.done(Step.PRIMARY_KEY_ROLLOUT) or bool(walk.done(Step.ZERO_OLD_ROWS_PROOF))


def _decrypt(pipeline: Pipeline, spans: Sequence[PageSpan], report: Report) -> int:
    """Decrypts pages with the keys that applications have now."""
    ring = pipeline.keys.read().ring()
    values = 0
    for table in pipeline.tables:
        if wanted := [span for span in spans if span.table == str(table.name)]:
            values += pipeline.rewriting.decrypt_spans(table, wanted, ring, report, lambda: _may_read(pipeline))
    return values


def _search(pipeline: Pipeline, spans: Sequence[PageSpan], _report: Report) -> int:
    return pipeline.inventory.search_spans(pipeline.tables, spans, lambda: _may_read(pipeline))


DECRYPT = RollingCheck(
    "rolling decrypt", lambda pipeline: pipeline.inventory.page_spans(pipeline.tables), due, _decrypt
)
SEARCH = RollingCheck(
    "rolling search", lambda pipeline: pipeline.inventory.undeclared_spans(pipeline.tables), to_search, _search
)
