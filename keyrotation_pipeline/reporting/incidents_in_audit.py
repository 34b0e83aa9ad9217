"""Incidents as the audit has them: their stages, the breach decision, and the notices that follow from it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from keyrotation_pipeline.audit.assessments import assessment_from
from keyrotation_pipeline.audit.history import HistoryEntry
from keyrotation_pipeline.model.breach import carried_by, deadlines
from keyrotation_pipeline.model.breach_decision import BreachNotice
from keyrotation_pipeline.model.comparison import comparison_lines
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.model.requests import Request
from keyrotation_pipeline.reporting.sections import STAGES, Approval

Entries = Sequence[HistoryEntry]


@dataclass(frozen=True, slots=True)
class StageOfResponse:
    """A stage of the response to an incident; `reached_at` None: not yet."""

    stage: str
    due_at: datetime
    reached_at: datetime | None

    def is_late(self, now: datetime) -> bool:
        """Whether it was, or still is, reached too late."""
        return (self.reached_at or now) > self.due_at


@dataclass(frozen=True, slots=True)
class NoticeDue:
    """A notice of a breach that is due and that nobody has reported as given.

    Args:
        to: whom to notify.
        last_date: the last day for it.
        rule: the paragraph of 45 CFR.
    """

    to: str
    last_date: date
    rule: str


@dataclass(frozen=True, slots=True)
class NoticeGiven:
    """A notice of a breach that somebody reported as given.

    Args:
        last_date, rule: of the decision in force; None: it asks for none to these recipients.
    """

    to: str
    sent_on: date
    reported_by: str
    reported_at: datetime
    last_date: date | None
    rule: str | None


@dataclass(frozen=True, slots=True)
class IncidentReported:
    """One incident.

    Args:
        stages: of the response, in order.
        notices_due: by the decision in force, also of a closed incident.
        breach: the decision by 45 CFR 164.402, a sentence each, as far as it is known.
        compared: whether its values were compared with a backup, and what was found, a sentence each.
        root_cause, remediation: as people wrote them; None: nobody has.
    """

    id: str
    type: str
    status: str
    description: str
    versions: tuple[str, ...]
    discovered_at: datetime
    reported_by: str
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    closed_at: datetime | None
    closed_by: str | None
    request: str | None
    stages: tuple[StageOfResponse, ...]
    notices_due: tuple[NoticeDue, ...]
    notices_given: tuple[NoticeGiven, ...]
    breach: tuple[str, ...]
    compared: tuple[str, ...]
    root_cause: str | None = None
    remediation: str | None = None


def incidents_of(
    incidents: Sequence[Incident],
    since: datetime,
    entries: Entries,
    requests: Sequence[Request],
    approvals: Mapping[str, tuple[Approval, ...]],
) -> Iterator[IncidentReported]:
    """Those that were not closed before a moment, and those whose notices are due."""
    for incident in incidents:
        if incident.closed_at is None or incident.closed_at >= since or assessment_from(entries, incident).due:
            yield _reported(incident, entries, requests, approvals)


def _reported(
    incident: Incident, entries: Entries, requests: Sequence[Request], approvals: Mapping[str, tuple[Approval, ...]]
) -> IncidentReported:
    carrier = carried_by(incident, requests)
    signed = sorted(each.signed_at for each in approvals.get(carrier.id, ())) if carrier else []
    enough = required_for(carrier, entries) if carrier else 0
    assessment = assessment_from(entries, incident)
    return IncidentReported(
        id=incident.id,
        type=str(incident.type),
        status=str(incident.status),
        description=incident.description,
        versions=tuple(map(str, incident.versions)),
        discovered_at=incident.discovered_at,
        reported_by=incident.reported_by,
        acknowledged_at=incident.acknowledged_at,
        acknowledged_by=incident.acknowledged_by,
        closed_at=incident.closed_at,
        closed_by=incident.closed_by,
        request=carrier.id if carrier else None,
        stages=tuple(
            StageOfResponse(STAGES[each.stage], each.due_at, each.reached_at)
            for each in deadlines(incident, requests, signed[enough - 1] if 0 < enough <= len(signed) else None)
        ),
        notices_due=tuple(NoticeDue(each.to, each.last_date, each.paragraph) for each in assessment.due),
        notices_given=tuple(_given(incident, assessment.in_force.notices)),
        breach=assessment.lines(),
        compared=tuple(comparison_lines(incident.comparisons)),
        root_cause=incident.root_cause,
        remediation=incident.remediation,
    )


def _given(incident: Incident, notices: Sequence[BreachNotice]) -> Iterator[NoticeGiven]:
    for each in incident.notices:
        asked = next((notice for notice in notices if each.covers(notice.to)), None)
        last_date, rule = (asked.last_date, asked.paragraph) if asked else (None, None)
        yield NoticeGiven(each.to, each.sent_on, each.reported_by, each.reported_at, last_date, rule)


def required_for(request: Request, entries: Entries) -> int:
    """How many officers the roster demands under which the request counts: of its last event before it began."""
    before = (each for each in entries if request.started_at is None or each.at <= request.started_at)
    rosters = [each.roster for each in before if each.request == request.id and each.roster is not None]
    return rosters[-1].required if rosters else 0
