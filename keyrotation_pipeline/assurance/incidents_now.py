"""Unfinished incidents against their clock, for `status`."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from keyrotation_pipeline.audit.incidents import incidents, told
from keyrotation_pipeline.model.deadlines import Deadline, carried_by
from keyrotation_pipeline.model.facts import instant, names
from keyrotation_pipeline.model.incident import Incident
from keyrotation_pipeline.model.request import Request, RequestStatus
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.superseding import is_stranded
from keyrotation_pipeline.rotation.incident_clock import clock_of, pace_of

MINUTE_SECONDS = 60
# A flag that was put aside is not mended but raised again; after a while it is history.
TOLD_FOR = timedelta(days=7)


def incidents_now(pipeline: Pipeline, now: datetime) -> tuple[list[dict[str, Any]], list[str]]:
    """Each incident that nobody has closed, and the sentences that must not be overlooked."""
    known, requests = incidents(pipeline.ledger), pipeline.ledger.requests()
    listed: list[dict[str, Any]] = []
    urgent: list[str] = []
    for incident in known.unfinished:
        clock = clock_of(pipeline, incident, requests)
        carrier = carried_by(incident, requests)
        listed.append(_document(pipeline, incident, clock, carrier, requests, now))
        urgent += _urgent(pipeline, incident, clock, carrier, now)
    for flag, (at, reason) in known.set_aside.items():
        if now - at > TOLD_FOR:
            continue
        urgent.append(f"flag {flag} of {at:%Y-%m-%d %H:%M} UTC was put aside: {reason}")
    for channel, (since, reason) in told(pipeline.ledger).failing.items():
        urgent.append(f"alerts do not reach {channel} since {since:%Y-%m-%d %H:%M} UTC: {reason}")
    return listed, urgent


def in_words(clock: Sequence[Deadline], now: datetime) -> str:
    """The next stage that is not reached, and how long there is for it."""
    for deadline in clock:
        seconds = deadline.seconds_left(now)
        if seconds is not None:
            hours, minutes = divmod(abs(seconds) // MINUTE_SECONDS, MINUTE_SECONDS)
            left = f"{hours} h {minutes:02d} min"
            stage = deadline.stage.replace("_", " ")
            return f"{stage} was due {left} ago" if seconds < 0 else f"{left} left to be {stage}"
    return "every stage is reached"


def _document(
    pipeline: Pipeline,
    incident: Incident,
    clock: Sequence[Deadline],
    carrier: Request | None,
    requests: Sequence[Request],
    now: datetime,
) -> dict[str, Any]:
    pace = pace_of(pipeline, incident, requests, now)
    return {
        "id": incident.id,
        "type": str(incident.type),
        "status": str(incident.status),
        "discovered_at": instant(incident.discovered_at),
        "request": carrier.id if carrier is not None else None,
        "versions": names(incident.versions),
        "clock": in_words(clock, now),
        "stages": [
            {
                "stage": str(each.stage),
                "due_at": instant(each.due_at),
                "reached_at": instant(each.reached_at),
                "seconds_left": each.seconds_left(now),
            }
            for each in clock
        ],
        "pace": str(pace) if pace else None,
    }


def _urgent(
    pipeline: Pipeline, incident: Incident, clock: Sequence[Deadline], carrier: Request | None, now: datetime
) -> Iterator[str]:
    if carrier is None:
        command = f"keyrotation request --emergency {incident.id} --reason TEXT"
        yield f"{incident.id} has no emergency request yet; run `{command}`"
    elif is_stranded(pipeline, carrier):
        yield (
            f"{incident.id} waits in vain: what request {carrier.id} was to take over was cancelled; run "
            f"`keyrotation cancel {carrier.id}`, then `keyrotation request --emergency {incident.id} --reason TEXT`"
        )
    elif carrier.status is RequestStatus.FINISHED:
        yield f"the rotation of {incident.id} is finished; close it with `keyrotation incident close {incident.id}`"
    else:
        yield f"{incident.id} is {incident.status}: {in_words(clock, now)}"
