"""How an incident stands against its clock, from the request that carries it."""

from collections.abc import Sequence
from datetime import datetime

from keyrotation_pipeline.model.breach import Deadline, Rate, ResponseStage, carried_by, deadlines, rate_needed
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.model.requests import Request, Step, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.roster import pinned_roster


def clock_of(pipeline: Pipeline, incident: Incident, requests: Sequence[Request]) -> tuple[Deadline, ...]:
    """Every stage of an incident, with when it was reached."""
    carrier = carried_by(incident, requests)
    return deadlines(incident, carrier, None if carrier is None else _signed_at(pipeline, carrier))


def rate_of(pipeline: Pipeline, incident: Incident, requests: Sequence[Request], now: datetime) -> Rate | None:
    """The rate needed against the rate measured, while rows are re-encrypted; None before and after."""
    carrier = carried_by(incident, requests)
    if not isinstance(carrier, Walk) or carrier.is_over or carrier.done(Step.ROWS) is not None:
        return None
    promoted = carrier.done(Step.PRIMARY_KEY_ROLLOUT)
    if promoted is None:
        return None
    walked = pipeline.ledger.shard_progress(carrier.id)
    done, total = sum(each.done_pages for each in walked), sum(each.total_pages for each in walked)
    rows = sum(each.rows for each in walked)
    counted = sum(count.rows for count in pipeline.ledger.counts(pipeline.tables))
    left = counted * (1 - done / total) if total else counted
    since = max(promoted.finished_at, carrier.started_at or promoted.finished_at)
    seconds = max((now - since).total_seconds(), 1.0)
    deadline = next(each for each in clock_of(pipeline, incident, requests) if each.stage is ResponseStage.REENCRYPTED)
    needed = rate_needed(left, deadline, now)
    return None if needed is None else Rate(needed, rows / seconds)


def _signed_at(pipeline: Pipeline, carrier: Request) -> datetime | None:
    """When the last of the signatures that it takes was made."""
    required = pinned_roster(pipeline).required
    signed = sorted(each.signed_at for each in pipeline.ledger.signatures(carrier.id))
    return signed[required - 1] if len(signed) >= required else None
