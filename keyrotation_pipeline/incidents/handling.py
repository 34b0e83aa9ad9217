"""What people do with an incident apart from signing: acknowledge it, amend it, and close it."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta, timezone

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.audit.incidents import incidents, unretired
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.incidents.assessing import assessment_of
from keyrotation_pipeline.model.breach import carried_by
from keyrotation_pipeline.model.incident_events import IncidentAcknowledged, IncidentAmended, IncidentClosed, NoticeSent
from keyrotation_pipeline.model.incidents import MEDIA, Incident, IncidentStatus, plain_text
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.takeover import used_versions

NOTIFIED = ("individuals", "HHS", MEDIA, f"{MEDIA} of STATE", "covered entity")
# A day begins first in the one and ends last in the other: the clinic's day lies between.
_LATEST_DAY, _EARLIEST_DAY = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))


def acknowledge(pipeline: Pipeline, name: str, by: str) -> Incident:
    """Acknowledges an incident, so that nobody else is called; repeating changes nothing.

    Raises:
        IncidentError: there is no such incident, or it is closed.
    """
    incident = incidents(pipeline.ledger).incident(name)
    _require_unfinished(incident)
    if incident.acknowledged_at is None:
        pipeline.ledger.append(IncidentAcknowledged(incident.id, by, pipeline.clock.now()), incident.request)
    return incidents(pipeline.ledger).incident(incident.id)


def amend(
    pipeline: Pipeline,
    name: str,
    by: str,
    texts: Mapping[str, str],
    actions: Sequence[str] = (),
    prevention: Sequence[str] = (),
) -> Incident:
    """Adds what people know about an incident and did about it; a closed one too.

    Args:
        texts: by the names of `IncidentAmended`; each replaces the previous one.
        actions, prevention: added to the existing ones.

    Raises:
        IncidentError: there is no such incident, nothing is given, or a text is invalid.
    """
    incident = incidents(pipeline.ledger).incident(name)
    require_plain_texts(texts, actions, prevention)
    if not (texts or actions or prevention):
        raise IncidentError("nothing is given to add; see `keyrotation incident amend --help`")
    added = IncidentAmended(
        incident.id, by, pipeline.clock.now(), **texts, actions=tuple(actions), prevention=tuple(prevention)
    )
    pipeline.ledger.append(added, incident.request)
    return incidents(pipeline.ledger).incident(incident.id)


def require_plain_texts(texts: Mapping[str, str], actions: Sequence[str], prevention: Sequence[str]) -> None:
    """Refuses a text that cannot be stored and sent.

    Raises:
        IncidentError: names which, without showing it.
    """
    lists = (("action", actions), ("prevention measure", prevention))
    for what, text in (*texts.items(), *((what, each) for what, given in lists for each in given)):
        plain_text(what.replace("_", " "), text)


def record_notice(pipeline: Pipeline, name: str, by: str, to: str, sent_on: date) -> Incident:
    """Records that a notice of a breach was given, which meets its deadline.

    Args:
        to: one of `NOTIFIED`, in any case.

    Raises:
        IncidentError: there is no such incident, nobody is notified by that name, or the day is impossible.
    """
    incident, now = incidents(pipeline.ledger).incident(name), pipeline.clock.now()
    recipient = _recipient(to)
    if sent_on > now.astimezone(_LATEST_DAY).date():
        raise IncidentError(f"{sent_on} is in the future; record a notice when it was sent")
    if sent_on < incident.discovered_at.astimezone(_EARLIEST_DAY).date():
        raise IncidentError(
            f"{sent_on} is before the discovery of {incident.id} ({incident.discovered_at:%Y-%m-%d}); give the day on "
            "which the notice was sent"
        )
    if any((each.to, each.sent_on) == (recipient, sent_on) for each in incident.notices):
        return incident
    pipeline.ledger.append(NoticeSent(incident.id, by, now, recipient, sent_on), incident.request)
    return incidents(pipeline.ledger).incident(incident.id)


def _recipient(to: str) -> str:
    plain = plain_text("recipient", to.strip())
    prefix = f"{MEDIA} of "
    if plain.lower().startswith(prefix) and len(plain) > len(prefix):
        return prefix + plain[len(prefix) :]
    named = {each.lower(): each for each in NOTIFIED[:3] + NOTIFIED[4:]}
    if (found := named.get(plain.lower())) is None:
        raise IncidentError(
            f"a notice of a breach goes to {', '.join(NOTIFIED)} (45 CFR 164.404 to 164.410); give one of them"
        )
    return found


def close(
    pipeline: Pipeline,
    name: str,
    by: str,
    *,
    root_cause: str | None = None,
    remediation: str | None = None,
    lessons: str | None = None,
) -> Incident:
    """Closes an incident whose key is out of use, or that enough officers have assessed as no breach.

    Raises:
        IncidentError: there is no such incident, it is closed, its request is not over, its key is still in use and
            officers have not assessed it, or a text is invalid.
        KeyStoreError: which keys are in use cannot be read.
        BlockedError: the database was restored to an earlier state.
    """
    incident = incidents(pipeline.ledger).incident(name)
    _require_unfinished(incident)
    texts = {"root_cause": root_cause, "remediation": remediation, "lessons": lessons}
    require_plain_texts({name: text for name, text in texts.items() if text is not None}, (), ())
    carrier = carried_by(incident, pipeline.ledger.requests())
    if carrier is not None and not carrier.is_over:
        raise IncidentError(
            f"{incident.id} has the {carrier.action} {carrier.id}, which is not over; let it end, or if it was "
            f"a false alarm, run `keyrotation cancel {carrier.id}` first"
        )
    require_consistent(pipeline, pipeline.keys.read())
    _require_out_of_use(pipeline, incident)
    at = pipeline.clock.now()
    pipeline.ledger.append(IncidentClosed(incident.id, by, at, root_cause, remediation, lessons), incident.request)
    return incidents(pipeline.ledger).incident(incident.id)


def _require_unfinished(incident: Incident) -> None:
    if incident.status is IncidentStatus.CLOSED:
        raise IncidentError(f"{incident.id} is closed; see `keyrotation incident report {incident.id}`")


def _require_out_of_use(pipeline: Pipeline, incident: Incident) -> None:
    """Refuses to close an incident whose key is in use: one person could cancel the request and close it alone."""
    in_use, kept = used_versions(pipeline), unretired(pipeline.ledger.replayed(), incident)
    used = [each for each in incident.versions if each in in_use]
    if not (used or kept) or assessment_of(pipeline, incident).is_settled_as_none:
        return
    if not used:
        raise IncidentError(
            f"{incident.id} names {', '.join(map(str, kept))}, which no rotation has retired; have officers sign an "
            f"assessment that says that nothing was breached (`keyrotation incident assess {incident.id}`)"
        )
    raise IncidentError(
        f"{incident.id} names {', '.join(map(str, used))}, which is still in use; run `keyrotation request --emergency "
        f"{incident.id} --reason TEXT`, or for a false alarm `keyrotation incident assess {incident.id}`"
    )
