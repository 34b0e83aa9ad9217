"""Answers about incidents and the notices that follow from them: each from one report, with its records."""

from keyrotation_pipeline.reporting.answers import Answer, Record, by_records
from keyrotation_pipeline.reporting.compliance import ComplianceReport
from keyrotation_pipeline.reporting.incidents_in_audit import IncidentReported
from keyrotation_pipeline.reporting.wording import when

NO_INCIDENT = "no incident is on record"


def incidents_in_time(report: ComplianceReport) -> Answer:
    """Whether every stage of every incident was reached by its time, or is not due yet."""
    records = []
    for incident in report.incidents:
        in_time, stages = True, []
        for stage in incident.stages:
            late = stage.is_late(report.as_of)
            in_time = in_time and not late
            reached = "not reached yet" if stage.reached_at is None else f"reached {when(stage.reached_at)}"
            stages.append(f"{stage.stage} due {when(stage.due_at)}, {reached}{', late' if late else ''}")
        said = f"{incident.id} ({_type_of(incident)}): {'; '.join(stages)}"
        records.append(Record(incident.id, said, incident.discovered_at, in_time))
    return by_records(records) if records else _no_incident()


def _type_of(incident: IncidentReported) -> str:
    return incident.type.replace("_", " ")


def _no_incident() -> Answer:
    return Answer(True, remark=NO_INCIDENT, applies=False)  # noqa: FBT003


def incidents_closed(report: ComplianceReport) -> Answer:
    """Whether every incident is closed."""
    if not report.incidents:
        return _no_incident()
    return by_records(
        Record(
            each.id,
            f"{each.id} ({_type_of(each)}) is {each.status}; {each.breach[0]}",
            each.discovered_at,
            each.closed_at is not None,
        )
        for each in report.incidents
    )


def notices_given(report: ComplianceReport) -> Answer:
    """Whether no notice of a breach is due."""
    if not report.incidents:
        return _no_incident()
    return by_records(
        Record(each.id, f"{each.id}: {_notices(each)}", each.discovered_at, not each.notices_due)
        for each in report.incidents
    )


def _notices(incident: IncidentReported) -> str:
    due = ", ".join(f"{each.to} by {each.last_date} ({each.rule})" for each in incident.notices_due)
    return f"due to {due}" if due else "no notice is due that nobody has reported as given"
