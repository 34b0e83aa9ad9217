"""Audit events of incidents, and of the alerts about them."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import ClassVar

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind, Fact
from keyrotation_pipeline.model.incidents import IncidentType


@dataclass(frozen=True, slots=True)
class IncidentOpened(Fact):
    """An incident, from a flag or from the command line; no key is changed by it.

    Args:
        flag: key of the flag; None: opened on the command line.
        news: digest of what the flag reported, by which a repetition is recognised.
    """

    kind: ClassVar = EventKind.INCIDENT_OPENED
    id: str
    type: IncidentType
    description: str
    discovered_at: datetime
    opened_at: datetime
    reported_by: str
    versions: tuple[KeyVersion, ...]
    scope: str | None
    impact: str | None
    flag: str | None
    news: str


@dataclass(frozen=True, slots=True)
class FlagRepeated(Fact):
    """A flag that repeats an incident that is already open."""

    kind: ClassVar = EventKind.FLAG_REPEATED
    flag: str
    incident: str


@dataclass(frozen=True, slots=True)
class FlagSetAside(Fact):
    """A flag that was rejected, and why; never with its content."""

    kind: ClassVar = EventKind.FLAG_SET_ASIDE
    flag: str
    reason: str


@dataclass(frozen=True, slots=True)
class EmergencyPrepared(Fact):
    """The request for an incident."""

    kind: ClassVar = EventKind.EMERGENCY_PREPARED
    incident: str
    request: str


@dataclass(frozen=True, slots=True)
class IncidentAcknowledged(Fact):
    """Somebody has acknowledged an incident."""

    kind: ClassVar = EventKind.INCIDENT_ACKNOWLEDGED
    incident: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class IncidentClosed(Fact):
    """An incident was closed, with what people wrote about it."""

    kind: ClassVar = EventKind.INCIDENT_CLOSED
    incident: str
    by: str
    at: datetime
    root_cause: str | None
    remediation: str | None
    lessons: str | None


@dataclass(frozen=True, slots=True)
class IncidentAmended(Fact):
    """What people add to an incident. A text replaces the previous one; actions and measures are added.

    Args:
        at: when it was recorded.
    """

    kind: ClassVar = EventKind.INCIDENT_AMENDED
    incident: str
    by: str
    at: datetime
    scope: str | None = None
    impact: str | None = None
    root_cause: str | None = None
    remediation: str | None = None
    lessons: str | None = None
    actions: tuple[str, ...] = ()
    prevention: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoticeSent(Fact):
    """Somebody reports that a notice of a breach was given; see `SentNotice`.

    Args:
        at: when it was reported.
    """

    kind: ClassVar = EventKind.NOTICE_SENT
    incident: str
    by: str
    at: datetime
    to: str
    sent_on: date


@dataclass(frozen=True, slots=True)
class ReportKept(Fact):
    """A version of an incident's report. Each change of its content makes the next.

    Args:
        number: 1, 2, 3 … of this incident.
        content: digest of its content, without its number and the audit's head.
    """

    kind: ClassVar = EventKind.REPORT_KEPT
    incident: str
    number: int
    content: str
    markdown: str
    html: str


@dataclass(frozen=True, slots=True)
class AlertDelivered(Fact):
    """A channel delivered an alert: by its key, never its text."""

    kind: ClassVar = EventKind.ALERT_DELIVERED
    alert: str
    channel: str


@dataclass(frozen=True, slots=True)
class ChannelFailed(Fact):
    """A channel stopped accepting alerts."""

    kind: ClassVar = EventKind.CHANNEL_FAILED
    channel: str
    reason: str
