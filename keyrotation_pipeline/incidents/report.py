"""The incident report: the source procedure's form, filled in from the audit; judgements are left to people.

Source: the source procedure, section 5.3, step 3.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from keyrotation_pipeline.audit.assessments import Assessment
from keyrotation_pipeline.audit.events import entries, recorded
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.audit.sentences import is_of_shard, said_by
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.incidents.assessing import assessment_of
from keyrotation_pipeline.model.audit import EventKind, counted, utc_minute
from keyrotation_pipeline.model.breach import Deadline, carried_by, reached_at
from keyrotation_pipeline.model.comparison import ValuesCompared, comparison_lines
from keyrotation_pipeline.model.incident_events import (
    EmergencyPrepared,
    IncidentAcknowledged,
    IncidentAmended,
    IncidentClosed,
    IncidentOpened,
    NoticeSent,
    ReportKept,
)
from keyrotation_pipeline.model.incidents import Contact, Incident
from keyrotation_pipeline.model.proof import records_reencrypted
from keyrotation_pipeline.model.requests import Request, Step, Walk
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline.rotation.report import clock_of
from keyrotation_pipeline.templates import render

FOR_PEOPLE = "(to be filled in by the officers: keyrotation incident amend takes it)"
_REPORTED = (
    EventKind.REQUEST_OPENED,
    EventKind.SIGNATURE_ADDED,
    EventKind.STATUS_CHANGED,
    EventKind.KEY_STATE_CHANGED,
    EventKind.STEP_FINISHED,
    EventKind.BLOCKED,
)
_MARKDOWN = re.compile(r"([\\`*\[\]<>|])")


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and its lines."""

    heading: str
    lines: tuple[str, ...]

    def markdown(self) -> str:
        """As a part of a Markdown document."""
        return f"\n## {self.heading}\n\n" + "".join(f"- {_plain(line)}\n" for line in self.lines)

    def html(self) -> str:
        """As a part of a page."""
        return render("incident_section.html.j2", section=self)


@dataclass(frozen=True, slots=True)
class Report:
    """The document, independent of its format."""

    title: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]

    def markdown(self) -> str:
        """As Markdown; text by people is escaped."""
        head = "\n".join(f"- **{name}:** {_plain(value)}" for name, value in self.facts)
        body = "".join(section.markdown() for section in self.sections)
        return f"# {_plain(self.title)}\n\n{head}\n{body}"

    def html(self) -> str:
        """As one HTML page without scripts or links."""
        return render("incident_report.html.j2", report=self)


def incident_report(pipeline: Pipeline, name: str) -> Report:
    """The present report of an incident.

    Raises:
        IncidentError: there is no such incident.
    """
    incident = incidents(pipeline.ledger).incident(name)
    requests = pipeline.ledger.requests()
    carrier, clock = carried_by(incident, requests), clock_of(pipeline, incident, requests)
    assessment = assessment_of(pipeline, incident)
    facts = (
        ("Incident ID", incident.id),
        ("Date", f"{incident.discovered_at:%Y-%m-%d}"),
        ("Type", str(incident.type)),
        ("Status", str(incident.status)),
        ("Severity", _assessed(incident, assessment) or "not assessed"),
        ("Database", pipeline.environment.identity().name),
    )
    sections = (
        Section("Summary", tuple(_summary(incident, carrier))),
        Section("Timeline", tuple(_timeline_lines(_timeline(pipeline, incident, carrier, assessment)))),
        Section("Impact", tuple(_impact(incident, requests, carrier, clock, assessment))),
        Section("Root Cause", (incident.root_cause or FOR_PEOPLE,)),
        Section("Remediation", tuple(_remediation(incident, carrier))),
        Section("Lessons Learned", tuple(_lessons(incident, clock))),
    )
    return Report(f"Incident report {incident.id}", facts, sections)


def kept_report(pipeline: Pipeline, name: str) -> ReportKept:
    """The newest version of an incident's report; if its content has changed, a new one is stored in the audit.

    Raises:
        IncidentError: there is no such incident.
    """
    report, incident = incident_report(pipeline, name), incidents(pipeline.ledger).incident(name)
    content = hashlib.sha256(json.dumps(asdict(report)).encode()).hexdigest()
    newest = next(reversed(versions(pipeline.ledger, incident.id)), None)
    if newest is not None and newest.content == content:
        return newest
    number, head = 1 if newest is None else newest.number + 1, pipeline.ledger.head()
    numbered = replace(
        report, facts=(*report.facts, ("Version of this report", f"{number}, of audit event {head.seq} {head.hash}"))
    )
    kept = ReportKept(incident.id, number, content, numbered.markdown(), numbered.html())
    pipeline.ledger.append(kept, incident.request)
    return kept


def kept_backups(lines: Sequence[str]) -> Section:
    """The stored backups that the compromised keys open now: appended to a report, and not part of its versions.

    Args:
        lines: one for each file.
    """
    return Section("Kept Backups", ("as of now, and not stored with this version of the report", *lines))


def contact_list(contacts: Sequence[Contact]) -> Section:
    """The contacts as configured now: appended to a report, and not part of its versions. Source: appendix B."""
    return Section("Contacts", tuple(map(str, contacts)))


def versions(ledger: Ledger, incident: str) -> tuple[ReportKept, ...]:
    """Every version of an incident's report, in order."""
    return tuple(each for each in recorded(ledger, ReportKept) if each.incident == incident)


def version(ledger: Ledger, name: str, number: int) -> ReportKept:
    """One stored version of an incident's report.

    Raises:
        IncidentError: there is no such incident, or no such version.
    """
    kept = versions(ledger, incidents(ledger).incident(name).id)
    found = next((each for each in kept if each.number == number), None)
    if found is None:
        raise IncidentError(
            f"the report of {name} has {counted(len(kept), 'version')}, and no {number}; name one of them"
        )
    return found


def _summary(incident: Incident, carrier: Request | None) -> Iterator[str]:
    yield f"{incident.description} (reported by {incident.reported_by})"
    yield f"Presumed compromised: {', '.join(map(str, incident.versions))}"
    if incident.scope is not None:
        yield f"Scope: {incident.scope}"
    if carrier is None:
        yield "No emergency rotation was prepared"
    else:
        yield f"Emergency {carrier.action} {carrier.id}, {carrier.source} to {carrier.target}: {carrier.status}"


def timeline_of(pipeline: Pipeline, name: str) -> list[tuple[datetime, str]]:
    """What happened to an incident and its emergency request, oldest first.

    Raises:
        IncidentError: there is no such incident.
    """
    incident = incidents(pipeline.ledger).incident(name)
    carrier = carried_by(incident, pipeline.ledger.requests())
    return _timeline(pipeline, incident, carrier, assessment_of(pipeline, incident))


def _timeline(
    pipeline: Pipeline, incident: Incident, carrier: Request | None, assessment: Assessment
) -> list[tuple[datetime, str]]:
    timeline = [(incident.discovered_at, "discovered"), *_own_events(pipeline.ledger, incident), *assessment.history]
    if carrier is not None:
        names = {officer.fingerprint: officer.name for officer in pinned_roster(pipeline).officers}
        for entry in entries(pipeline.ledger, *_REPORTED, request=carrier.id):
            if not is_of_shard(entry):
                whose = "rotation " if entry.kind == EventKind.STATUS_CHANGED else ""
                timeline.append((entry.at, f"{whose}{said_by(entry, names)}"))
    return sorted(timeline, key=lambda each: each[0])


def _timeline_lines(timeline: Sequence[tuple[datetime, str]]) -> Iterator[str]:
    for at, message in timeline:
        yield f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC: {message}"


def _own_events(ledger: Ledger, incident: Incident) -> Iterator[tuple[datetime, str]]:
    kinds = (
        EventKind.INCIDENT_OPENED,
        EventKind.EMERGENCY_PREPARED,
        EventKind.INCIDENT_ACKNOWLEDGED,
        EventKind.INCIDENT_CLOSED,
        EventKind.INCIDENT_AMENDED,
        EventKind.NOTICE_SENT,
        EventKind.VALUES_COMPARED,
    )
    for entry in entries(ledger, *kinds):
        match entry.fact():
            case IncidentOpened(id=incident.id, flag=flag):
                yield entry.at, f"incident opened{f' from flag {flag}' if flag else ''}"
            case EmergencyPrepared(incident=incident.id, request=request):
                yield entry.at, f"emergency request {request} prepared"
            case IncidentAcknowledged(incident=incident.id, by=by):
                yield entry.at, f"acknowledged by {by}"
            case IncidentClosed(incident=incident.id, by=by):
                yield entry.at, f"closed by {by}"
            case IncidentAmended(incident=incident.id) as amended:
                yield from ((entry.at, message) for message in _amended(amended))
            case NoticeSent(incident=incident.id, by=by, to=to, sent_on=sent_on):
                yield entry.at, f"notice to {to} of {sent_on} reported by {by}"
            case ValuesCompared(incident=incident.id, by=by, backup=backup, differences=differences):
                yield entry.at, f"values compared with {backup} by {by}: {counted(differences, 'difference')}"


def _amended(fact: IncidentAmended) -> Iterator[str]:
    """What an event adds to an incident; texts that appear elsewhere in the report only by their names."""
    yield from (f"action taken: {each} (reported by {fact.by})" for each in fact.actions)
    yield from (f"prevention measure: {each} (reported by {fact.by})" for each in fact.prevention)
    texts = ("scope", "impact", "root_cause", "remediation", "lessons")
    if given := [name.replace("_", " ") for name in texts if getattr(fact, name) is not None]:
        yield f"{', '.join(given)} written by {fact.by}"


def _assessed(incident: Incident, assessment: Assessment) -> str | None:
    """What people say about the impact, and what officers have signed; None: neither."""
    signed = f"{assessment.in_force.outcome}, signed by {', '.join(assessment.signed_by)}"
    said = (incident.impact, signed if assessment.is_settled else None)
    return "; ".join(filter(None, said)) or None


def _impact(
    incident: Incident,
    requests: Sequence[Request],
    carrier: Request | None,
    clock: Sequence[Deadline],
    assessment: Assessment,
) -> Iterator[str]:
    yield f"Assessed by people: {_assessed(incident, assessment) or 'not yet'}"
    yield _written_under(incident, requests)
    if isinstance(carrier, Walk):
        yield f"Rows re-encrypted: {records_reencrypted(carrier)}"
    for deadline in clock:
        if deadline.reached_at is None:
            yield f"Not {deadline.stage.replace('_', ' ')}; due by {utc_minute(deadline.due_at)}"
        else:
            late = "late" if deadline.reached_at > deadline.due_at else "in time"
            yield f"{deadline.stage.replace('_', ' ').capitalize()}: {utc_minute(deadline.reached_at)}, {late}"
    yield from comparison_lines(incident.comparisons)
    yield from assessment.lines()


def _written_under(incident: Incident, requests: Sequence[Request]) -> str:
    """Until when applications wrote under the versions, whichever walk ended that."""
    left = reached_at(incident, requests, Step.PRIMARY_KEY_ROLLOUT)
    since = f"{incident.discovered_at:%Y-%m-%d %H:%M:%S} UTC"
    until = f"{left:%Y-%m-%d %H:%M:%S} UTC" if left else "now: writes have not moved yet"
    # A rotation may have promoted another key already.
    if left and left <= incident.discovered_at:
        return f"Applications wrote under another key since {until}, before discovery ({since})"
    return f"Applications still wrote under the compromised key from discovery ({since}) until {until}"


def _remediation(incident: Incident, carrier: Request | None) -> Iterator[str]:
    if isinstance(carrier, Walk) and (retired := carrier.done(Step.RETIRED_KEY)) is not None:
        gone = carrier.done(Step.ARCHIVED_KEY)
        ended = "; the wait for applications, where one is configured, ended"
        waited = "" if gone is None else f"{ended} {utc_minute(gone.finished_at)}"
        withdrawn = [str(each) for each in retired.facts.get("taken_from_applications", ())]
        were, them = ("were", "them") if withdrawn[1:] else ("was", "it")
        yield (
            f"{', '.join(withdrawn) or carrier.source} {were} replaced by {carrier.target} and "
            f"withdrawn from the key store {utc_minute(retired.finished_at)}{waited}; the database refuses "
            f"{them}"
        )
    yield from (f"Action taken: {each}" for each in incident.actions)
    yield incident.remediation or FOR_PEOPLE
    yield from (f"Prevention measure: {each}" for each in incident.prevention)


def _lessons(incident: Incident, clock: Sequence[Deadline]) -> Iterator[str]:
    last = clock[-1]
    if last.reached_at is not None:
        hours = (last.reached_at - incident.discovered_at).total_seconds() / 3600
        yield f"From discovery to retirement it took {hours:,.1f} hours; the procedure allows 48"
    yield incident.lessons or FOR_PEOPLE


def _plain(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)
