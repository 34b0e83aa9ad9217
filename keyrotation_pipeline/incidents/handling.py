"""What people do with an incident besides signing: they take it up, and they close it."""

from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.incidents.assessing import assessment_of
from keyrotation_pipeline.incidents.opening import used_versions
from keyrotation_pipeline.model.deadlines import carried_by
from keyrotation_pipeline.model.incident import Incident, IncidentStatus, plain_text
from keyrotation_pipeline.model.incident_events import IncidentAcknowledged, IncidentClosed
from keyrotation_pipeline.ports.pipeline import Pipeline


def acknowledge(pipeline: Pipeline, name: str, by: str) -> Incident:
    """Take an incident up, so that nobody further is called; again is no change.

    Raises:
        IncidentError: there is none of that name, or it is closed.
    """
    incident = incidents(pipeline.ledger).incident(name)
    _require_unfinished(incident)
    if incident.acknowledged_at is None:
        pipeline.ledger.append(IncidentAcknowledged(incident.id, by, pipeline.clock.now()), incident.request)
    return incidents(pipeline.ledger).incident(incident.id)


def close(
    pipeline: Pipeline,
    name: str,
    by: str,
    *,
    root_cause: str | None = None,
    remediation: str | None = None,
    lessons: str | None = None,
) -> Incident:
    """Close an incident whose key is out of use, or of which enough officers have signed that it is no breach.

    Raises:
        IncidentError: there is none of that name, it is closed, its request is not over, its key is still in use and
            nobody has settled that it may be, or a text is none.
        KeyStoreError: which keys are in use cannot be read.
    """
    incident = incidents(pipeline.ledger).incident(name)
    _require_unfinished(incident)
    for what, text in (("root cause", root_cause), ("remediation", remediation), ("lessons", lessons)):
        if text is not None:
            plain_text(what, text)
    carrier = carried_by(incident, pipeline.ledger.requests())
    if carrier is not None and not carrier.is_over:
        raise IncidentError(
            f"{incident.id} has the {carrier.action} {carrier.id}, which is not over; let it end, or if there was "
            f"nothing to it, run `keyrotation cancel {carrier.id}` first"
        )
    _require_out_of_use(pipeline, incident)
    at = pipeline.clock.now()
    pipeline.ledger.append(IncidentClosed(incident.id, by, at, root_cause, remediation, lessons), incident.request)
    return incidents(pipeline.ledger).incident(incident.id)


def _require_unfinished(incident: Incident) -> None:
    if incident.status is IncidentStatus.CLOSED:
        raise IncidentError(f"{incident.id} is closed; see `keyrotation incident report {incident.id}`")


def _require_out_of_use(pipeline: Pipeline, incident: Incident) -> None:
    """Else whoever gets the request cancelled could end an incident alone, and leave the key in use."""
    in_use = used_versions(pipeline)
    used = [each for each in incident.versions if each in in_use]
    if not used or assessment_of(pipeline, incident).is_settled_as_none:
        return
    raise IncidentError(
        f"{incident.id} names {', '.join(map(str, used))}, which is still in use; let a rotation replace it "
        f"(`keyrotation request --emergency {incident.id} --reason TEXT`), or if there was nothing to it, let officers "
        f"sign an assessment that says so (`keyrotation incident assess {incident.id}`)"
    )
