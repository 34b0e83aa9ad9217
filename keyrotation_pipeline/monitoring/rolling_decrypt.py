"""A part of every encrypted table is decrypted each day, so that each value is within a set number of days."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from keyrotation_pipeline.errors import AtWorkError
from keyrotation_pipeline.model.page_reading import PageSpan, Reach, due, reach
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.requests import RequestStatus, Step
from keyrotation_pipeline.ports.pipeline import Pipeline

LOCK = "rolling decrypt"


def how_far(pipeline: Pipeline) -> Reach:
    """How much was read within the set number of days; what is new since the last look is noted down."""
    return reach(_spans(pipeline), pipeline.clock.now(), pipeline.verification.every_days)


def due_now(pipeline: Pipeline) -> tuple[PageSpan, ...]:
    """What is to be read at this moment; nothing out of the allowed hours, or while a rotation reads everything."""
    if not may_read(pipeline):
        return ()
    return tuple(due(_spans(pipeline), pipeline.clock.now(), pipeline.verification.every_days))


def read_what_is_due(pipeline: Pipeline, report: Report) -> int:
    """Decrypt what is due, with the keys that applications have now; returns the number of values.

    It stops where the allowed hours end, and goes on from there the next time. What another process reads at this
    moment is left to that.
    """
    try:
        with pipeline.ledger.lock(LOCK):
            spans = due_now(pipeline)
            return _read(pipeline, spans, report) if spans else 0
    except AtWorkError:
        return 0


def overdue(pipeline: Pipeline, now: datetime) -> list[str]:
    """A sentence for each table that may hold something unread for too long."""
    longest = timedelta(days=pipeline.verification.every_days)
    return [
        f"not every value of {table} was decrypted since {since:%Y-%m-%d}, and {longest.days} days are set; give the "
        "schedule rolling_decrypt more hours, duty_cycle or workers, or run `keyrotation verify`"
        for table, since in sorted(pipeline.database.unread_since(pipeline.tables).items())
        if now - since > longest
    ]


def _spans(pipeline: Pipeline) -> tuple[PageSpan, ...]:
    return pipeline.database.page_spans(pipeline.tables)


def _read(pipeline: Pipeline, spans: Sequence[PageSpan], report: Report) -> int:
    ring = pipeline.keys.read().ring()
    values = 0
    for table in pipeline.tables:
        if wanted := [span for span in spans if span.table == str(table.name)]:
            values += pipeline.database.decrypt_spans(table, wanted, ring, report, lambda: may_read(pipeline))
    return values


def may_read(pipeline: Pipeline) -> bool:
    """Whether these are the hours for it, and no rotation rewrites the rows, whose proof will read all of them."""
    hours, walk = pipeline.verification.hours, pipeline.ledger.current()
    if hours is not None and not hours.include(pipeline.clock.now()):
        return False
    if walk is None or walk.status is not RequestStatus.RUNNING:
        return True
    return not walk.done(Step.PRIMARY_KEY_ROLLOUT) or bool(walk.done(Step.ZERO_OLD_ROWS_PROOF))
