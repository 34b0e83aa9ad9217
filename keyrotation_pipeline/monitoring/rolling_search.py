"""A part of everything that is not declared is searched each day, so that each place is within a set number of days."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyrotation_pipeline.errors import AtWorkError
from keyrotation_pipeline.model.page_reading import PageSpan, Reach, reach, to_search
from keyrotation_pipeline.monitoring.rolling_decrypt import may_read
from keyrotation_pipeline.ports.pipeline import Pipeline

LOCK = "rolling search"


@dataclass(frozen=True, slots=True)
class SearchState:
    """What is known of the undeclared places.

    Args:
        far: how much was searched within the set number of days.
        found: how many values each column holds, by ``relation.column``; those found earlier too, until they are seen
            to be gone.
        pages: searched just now.
    """

    far: Reach
    found: Mapping[str, int]
    pages: int = 0


def due_now(pipeline: Pipeline) -> tuple[PageSpan, ...]:
    """What is to be searched at this moment; nothing out of the allowed hours, or while a rotation reads everything."""
    if not may_read(pipeline):
        return ()
    spans = pipeline.database.undeclared_spans(pipeline.tables)
    return tuple(to_search(spans, pipeline.clock.now(), pipeline.verification.every_days))


def search_what_is_due(pipeline: Pipeline) -> SearchState:
    """Search what is due, and say what is known now. What another process searches at this moment is left to that."""
    try:
        with pipeline.ledger.lock(LOCK):
            wanted = due_now(pipeline)
            pages = pipeline.database.search_spans(pipeline.tables, wanted, lambda: may_read(pipeline)) if wanted else 0
    except AtWorkError:
        pages = 0
    return _known(pipeline, pages)


def overdue(pipeline: Pipeline, now: datetime) -> list[str]:
    """A sentence where something may be unsearched for too long."""
    days, since = pipeline.verification.every_days, pipeline.database.unsearched_since()
    if since is None or now - since <= timedelta(days=days):
        return []
    late = f"not everything that is not declared was searched since {since:%Y-%m-%d}, and {days} days are set"
    return [f"{late}; give the schedule rolling_decrypt more hours or duty_cycle, or run `keyrotation inventory`"]


def _known(pipeline: Pipeline, pages: int) -> SearchState:
    """By what was noted down, and by the definitions in the catalogue, which are looked at each time."""
    spans = pipeline.database.undeclared_spans(pipeline.tables)
    found: Counter[str] = Counter()
    for span in spans:
        found.update({f"{span.table}.{column}": number for column, number in span.found.items()})
    for each in pipeline.database.definitions_found():
        found[f"{each.relation}.{each.column}"] += each.values
    return SearchState(reach(spans, pipeline.clock.now(), pipeline.verification.every_days), found, pages)
