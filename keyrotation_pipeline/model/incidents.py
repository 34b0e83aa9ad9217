"""Incidents, the people to contact, alerts, and logged accesses."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from keyrotation_pipeline.errors import ApprovalError, IncidentError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import FIRST, SECOND, KeyVersion
from keyrotation_pipeline.model.approval import require_plain
from keyrotation_pipeline.model.comparison import Comparison

LONGEST_TEXT_CHARS = 800
LONGEST_SOURCE_CHARS = 255
# Hosts differ by seconds, and a tool may round up; more is a wrong clock or a wrong date.
REPORTERS_CLOCK_DIFFERS_BY = timedelta(minutes=5)
MEDIA = "media"
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
# 32 bytes in base64 or hex, or a value of ours: a description is stored, sent and signed, and must hold neither.
_NONCE = rf"[A-Za-z0-9+/]{{{FIRST.nonce_chars},{SECOND.nonce_chars}}}"
_SECRET = re.compile(rf"v[0-9]+{SECOND.marker}?:{_NONCE}:|[A-Za-z0-9+/_-]{{43}}=|[0-9A-Fa-f]{{64}}", re.ASCII)


class IncidentType(StrEnum):
    """The type of an incident.

    Source: the source procedure, section 2.2, a type for each of its five triggers; section 5.1 for `OTHER`, where it
    is unknown what was affected. It prepares an emergency request like the others: officers cancel what is not needed.
    """

    KEY_EXPOSED = "key_exposed"
    UNAUTHORIZED_ACCESS = "unauthorized_access"
    SERVER_COMPROMISE = "server_compromise"
    INSIDER = "insider"
    LIBRARY_ADVISORY = "library_advisory"
    OTHER = "other"

    @property
    def reaches_every_key(self) -> bool:
        """Whether whoever reached one key has reached every live one; otherwise the key being rotated out."""
        return self not in {IncidentType.KEY_EXPOSED, IncidentType.LIBRARY_ADVISORY}


class IncidentStatus(StrEnum):
    """The status of an incident. Its rotation has a status of its own."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Flag:
    """A report by a person or a tool; none of it is assumed to be well-formed.

    Args:
        key: makes sure that it is taken once: ``row 17``, or an alarm and the moment of its change.
        discovered_at: None: missing or impossible.
        versions: names of key versions, if the reporter knows them.
    """

    key: str
    source: str | None
    type: str | None
    description: str | None
    discovered_at: datetime | None
    scope: str | None = None
    impact: str | None = None
    versions: tuple[str, ...] = ()

    @property
    def news(self) -> str:
        """Digest of all but the key: two flags with the same news report the same thing."""
        # Not converted to UTC, which fails in the year 1.
        at = None if self.discovered_at is None else f"{self.discovered_at.timestamp():.6f}"
        content = [self.source, self.type, self.description, at, self.scope, self.impact, list(self.versions)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Reported:
    """A flag whose every part was checked."""

    source: str
    type: IncidentType
    description: str
    discovered_at: datetime
    scope: str | None
    impact: str | None
    versions: tuple[KeyVersion, ...]


@dataclass(frozen=True, slots=True)
class SentNotice:
    """A notice of a breach that was given, as somebody reported.

    Args:
        to: ``individuals``, ``HHS``, ``media``, ``media of <State>`` or ``covered entity``.
        sent_on: the day on which it was given.
    """

    to: str
    sent_on: date
    reported_by: str
    reported_at: datetime

    def covers(self, to: str) -> bool:
        """Whether it is the notice due to these recipients: media of one State are not those of another (164.406)."""
        return self.to.casefold() == to.casefold()


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident, replayed from the audit.

    Args:
        id: ``INC-2026-001``.
        versions: count as compromised as soon as officers have signed.
        flag: key of the flag that opened it; None: somebody opened it on the command line.
        request: the emergency request that was prepared for it.
        acknowledged_by: who acknowledged it first.
        actions: what was done about it.
        prevention: measures against a repetition.
        notices: those that were given, in the order of reporting.
        comparisons: of its values with backups, in the order of the audit.
    """

    id: str
    type: IncidentType
    description: str
    discovered_at: datetime
    opened_at: datetime
    reported_by: str
    versions: tuple[KeyVersion, ...]
    scope: str | None = None
    impact: str | None = None
    flag: str | None = None
    request: str | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    closed_at: datetime | None = None
    closed_by: str | None = None
    root_cause: str | None = None
    remediation: str | None = None
    lessons: str | None = None
    actions: tuple[str, ...] = ()
    prevention: tuple[str, ...] = ()
    notices: tuple[SentNotice, ...] = ()
    comparisons: tuple[Comparison, ...] = ()

    def notice(self, to: str) -> SentNotice | None:
        """The notice that was given to these recipients, the earliest of several; None: none was."""
        given = (each for each in self.notices if each.covers(to))
        return min(given, key=lambda each: each.sent_on, default=None)

    @property
    def status(self) -> IncidentStatus:
        """Open until somebody acknowledges it, and never open again once closed."""
        if self.closed_at is not None:
            return IncidentStatus.CLOSED
        return IncidentStatus.OPEN if self.acknowledged_at is None else IncidentStatus.ACKNOWLEDGED

    @property
    def reason(self) -> str:
        """The reason that officers sign."""
        return f"{self.type}: {self.description}"


def checked(flag: Flag, now: datetime) -> Reported:
    """Check every part of a flag.

    Raises:
        IncidentError: a part is missing or wrong; names it, without showing it.
    """
    types = ", ".join(IncidentType)
    if flag.type not in set(IncidentType):
        raise IncidentError(f"its type is not one of {types}; raise it again with one of them")
    return Reported(
        source=_plain("source", flag.source, LONGEST_SOURCE_CHARS),
        type=IncidentType(flag.type),
        description=_plain("description", flag.description, LONGEST_TEXT_CHARS),
        discovered_at=_discovered_at(flag.discovered_at, now),
        scope=None if flag.scope is None else _plain("scope", flag.scope, LONGEST_TEXT_CHARS),
        impact=None if flag.impact is None else _plain("impact", flag.impact, LONGEST_TEXT_CHARS),
        versions=tuple(map(_version, flag.versions)),
    )


def plain_text(name: str, text: str) -> str:
    """Check a text for people that is stored and sent.

    Raises:
        IncidentError: it is empty, too long, not one plain line, or holds what looks like a key or a stored value.
    """
    return _plain(name, text, LONGEST_TEXT_CHARS)


def _plain(name: str, text: str | None, longest: int) -> str:
    if text is None or not text.strip():
        raise IncidentError(f"its {name} is missing; write it in one plain line")
    if len(text) > longest:
        raise IncidentError(f"its {name} has more than {longest} characters; write it shorter")
    try:
        require_plain(name, text)
    except ApprovalError:
        raise IncidentError(
            f"its {name} holds line breaks, invisible characters or spaces around; write it in one plain line"
        ) from None
    if _SECRET.search(text):
        raise IncidentError(f"its {name} holds what looks like a key or a stored value; say where it is instead")
    return text


def _discovered_at(at: datetime | None, now: datetime) -> datetime:
    if at is None or at.tzinfo is None or at < EARLIEST:
        raise IncidentError("its discovered_at is missing or not a date since 2000; say when it was discovered")
    if at > now + REPORTERS_CLOCK_DIFFERS_BY:
        raise IncidentError("its discovered_at is in the future; correct it, and the clock that it came from")
    return min(at, now).astimezone(UTC).replace(microsecond=0)


def _version(name: str) -> KeyVersion:
    try:
        return KeyVersion.parse(name)
    except InvalidKeyError:
        raise IncidentError("one of its key versions is not a version; write v1, v2 …") from None


class ContactRole(StrEnum):
    """Whom an alert is for. `OFFICER`: officers other than the Security Officer."""

    ON_CALL = "on-call"
    DEVOPS_LEAD = "devops-lead"
    SECURITY_OFFICER = "security-officer"
    COMPLIANCE_OFFICER = "compliance-officer"
    DATABASE_ADMINISTRATOR = "database-administrator"
    OFFICER = "officer"


# On-call is alerted at once; these only while nobody has acknowledged the incident.
ESCALATION = (
    (ContactRole.DEVOPS_LEAD, timedelta(minutes=30)),
    (ContactRole.SECURITY_OFFICER, timedelta(hours=1)),
)


@dataclass(frozen=True, slots=True)
class Contact:
    """One line of the emergency contact list."""

    role: ContactRole
    name: str
    email: str | None = None
    phone: str | None = None

    def as_json(self) -> dict[str, str | None]:
        """As `status --json` has it."""
        return {"role": str(self.role), "name": self.name, "email": self.email, "phone": self.phone}

    def __str__(self) -> str:
        return ", ".join(part for part in (f"{self.role}: {self.name}", self.email, self.phone) if part)


SUBJECT_CHARS = 100


class Severity(StrEnum):
    """How urgent an alert is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Alert:
    """One message.

    Args:
        key: the same for the same news, for example ``incident/INC-2026-001/opened``; sent once.
        subject: one plain line of at most 100 characters.
        text: sentences that say what happened and what to do.
        at: aware.
    """

    key: str
    severity: Severity
    subject: str
    text: str
    database: str
    at: datetime

    def __post_init__(self) -> None:
        """Refuse a subject that could become a second mail header or hide something.

        Raises:
            ApprovalError: it has a line break, a control or a bidi character, or spaces around it.
            ValueError: it is longer than 100 characters.
        """
        require_plain("Subject", self.subject)
        if len(self.subject) > SUBJECT_CHARS:
            raise ValueError(f"an alert's subject has {len(self.subject)} characters; {SUBJECT_CHARS} are allowed")


@dataclass(frozen=True, slots=True)
class KeyRead:
    """One read of the key's secret, from CloudTrail; never the key.

    Args:
        event_id: CloudTrail's id, the same if it is delivered twice.
        refused: the error that refused it; None: it was allowed.
    """

    event_id: str
    at: datetime
    who: str
    address: str
    event: str
    secret: str
    agent: str
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class RecordReads:
    """How often somebody read records of one kind from one address, from the application's own audit."""

    resource_type: str
    event_type: str
    who: str
    address: str
    reads: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class KeyReadsBy:
    """How often somebody requested the key's secret from one address, by CloudTrail."""

    who: str
    address: str
    reads: int
    refused: int
    first_at: datetime
    last_at: datetime
