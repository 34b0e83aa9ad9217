"""Unfinished incidents against their clock, for `status`."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from keyrotation_pipeline.audit.incidents import incidents, told
from keyrotation_pipeline.model.breach import carried_by
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.model.status import OpenIncident
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.takeover import is_stranded
from keyrotation_pipeline.rotation.report import clock_of, rate_of

# A flag that was put aside is not mended but raised again; after a while it is history.
TOLD_FOR = timedelta(days=7)


def incidents_now(pipeline: Pipeline, now: datetime) -> tuple[tuple[OpenIncident, ...], list[str]]:
    """Each incident that nobody has closed, and the sentences that must not be overlooked."""
    known, requests = incidents(pipeline.ledger), pipeline.ledger.requests()
    listed: list[OpenIncident] = []
    urgent: list[str] = []
    for incident in known.unfinished:
        clock = tuple(clock_of(pipeline, incident, requests))
        pace = rate_of(pipeline, incident, requests, now)
        shown = OpenIncident(incident, carried_by(incident, requests), clock, pace, now)
        listed.append(shown)
        urgent += _urgent(pipeline, shown)
    for flag, (at, reason) in known.set_aside.items():
        if now - at > TOLD_FOR:
            continue
        urgent.append(f"flag {flag} of {at:%Y-%m-%d %H:%M} UTC was put aside: {reason}")
    for channel, (since, reason) in told(pipeline.ledger).failing.items():
        urgent.append(f"alerts do not reach {channel} since {since:%Y-%m-%d %H:%M} UTC: {reason}")
    return tuple(listed), urgent


def _urgent(pipeline: Pipeline, shown: OpenIncident) -> Iterator[str]:
    incident, carrier = shown.incident, shown.carrier
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
        yield f"{incident.id} is {incident.status}: {shown.clock_in_words}"
