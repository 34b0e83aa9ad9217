"""The compliance report as a value: what an auditor asks for, read only from the verified audit.

It is built only from the audit and from signatures that are verified again. So the same audit gives the same report,
and its time is that of the newest event.

Source: the source procedure, section 8.3.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from keyrotation_pipeline.fieldcrypto.grammar import NONCE_BYTES
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES
from keyrotation_pipeline.model.audit import as_json
from keyrotation_pipeline.model.incidents import KeyReadsBy, RecordReads

SCHEMA = 2


@dataclass(frozen=True, slots=True)
class OfficerOnRoster:
    """An officer who may approve; the fingerprint is that of the certificate's primary key."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy: when keys change, and who must agree.

    Args:
        next_rotation_due, rule: when it is due, and which rule says so; None: no key is active.
    """

    required: int
    officers: tuple[OfficerOnRoster, ...]
    recipients: tuple[str, ...]
    next_rotation_due: datetime | None
    rule: str | None
    schedule: str = "every 12 months"
    emergency: str = "within 24 hours of the request, for an incident"
    approval: str = "OpenPGP signatures of different officers over the exact text, verified again before each deed"


@dataclass(frozen=True, slots=True)
class Span:
    """The period in which a version was the primary; `until` None: it still is."""

    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class KeyLife:
    """One key version.

    Args:
        fingerprint: SHA-256 over a fixed label and the key; never the key.
        declared_since: when an imported key came into use, as declared.
        cryptoperiods: when it encrypted.
    """

    version: str
    state: str
    fingerprint: str
    created_at: datetime
    declared_since: datetime | None
    cryptoperiods: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Approval:
    """One officer's signature on a request, verified again; `refusal` says why it does not verify, None: it does."""

    officer: str
    fingerprint: str
    signed_at: datetime
    refusal: str | None


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step of a rotation or rollback, and when it ended."""

    step: str
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Decided:
    """One request of any action, with its approvals.

    Args:
        records_reencrypted: None: its action re-encrypts none.
        retirement: the evidence for retiring the old key; empty: it was not retired.
    """

    id: str
    action: str
    type: str
    source: str
    target: str
    reason: str
    incident: str | None
    requested_by: str
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    status: str
    approvals: tuple[Approval, ...]
    steps: tuple[FinishedStep, ...]
    records_reencrypted: int | None
    retirement: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BackupTaken:
    """One backup; `failures` has a sentence for each part that is missing.

    Args:
        compromised: versions that are now compromised, and that its dump needs or whose key it holds.
        replaced_by: manifest of the set that has its rows under another key; None: there is none.
    """

    at: datetime
    manifest: str | None
    keys: tuple[str, ...]
    has_dump: bool
    places: tuple[str, ...]
    failures: tuple[str, ...]
    compromised: tuple[str, ...] = ()
    replaced_by: str | None = None


@dataclass(frozen=True, slots=True)
class RecoveryTested:
    """One recovery test; `failure` None: it passed. RTO and RPO are measured, next to their objectives."""

    at: datetime
    place: str
    failure: str | None
    rto_seconds: float | None = None
    rto_allowed_seconds: float | None = None
    rpo_seconds: float | None = None
    rpo_allowed_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class IncidentTold:
    """One incident; `breach` has the decision by 45 CFR 164.402, a sentence each, as far as it is known."""

    id: str
    type: str
    status: str
    description: str
    versions: tuple[str, ...]
    discovered_at: datetime
    acknowledged_at: datetime | None
    closed_at: datetime | None
    request: str | None
    breach: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuditVerified:
    """The head of the chain, which was verified with its anchors, tables and signatures before anything was read."""

    seq: int
    head: str


@dataclass(frozen=True, slots=True)
class TimeStamped:
    """A head of the audit that an outside authority has seen.

    Args:
        recorded_at: when the event of that head happened, by our clock.
        stamped_at: when the authority saw it, by its clock.
        refusal: why it does not count; None: verified again with the configured certificates.
    """

    seq: int
    head: str
    recorded_at: datetime
    stamped_at: datetime
    authority: str
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Algorithm:
    """How values are encrypted."""

    cipher: str = "AES-256-GCM (NIST SP 800-38D), no associated data"
    key_bits: int = KEY_BYTES * 8
    nonce_bits: int = NONCE_BYTES * 8
    key_generation: str = "random bytes of the operating system"
    key_states: str = "NIST SP 800-57 Part 1"


NO_ACCESS = (
    "who read the key and who read records: give --from, where [incidents] names the logs, or run "
    "`keyrotation incident access`"
)
NOT_INCLUDED = (
    "whether backup files are still where the audit says: run `keyrotation status`",
    "what no program sees: training, contracts, physical security",
)


@dataclass(frozen=True, slots=True)
class Period:
    """The period of a report: states as of its end, and what happened in it or was not over when it began.

    Args:
        since: None: from the first event on.
        until: not included; None: up to the newest event.
    """

    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class AccessSummary:
    """Who read keys and records in a period, rare readers first; None: no log is configured."""

    since: datetime
    until: datetime
    key_reads: tuple[KeyReadsBy, ...] | None
    record_reads: tuple[RecordReads, ...] | None


@dataclass(frozen=True, slots=True)
class ComplianceReport:
    """The whole report; requests, backups, tests and incidents in the order of the audit.

    Args:
        generated_at: the time of the newest audit event, so that the same audit gives the same bytes.
        since: the time of the first event.
        period: None: the whole audit.
        access: not from the audit but from the logs that `[incidents]` names; None: not read.
    """

    generated_at: datetime
    database: str
    audit: AuditVerified
    policy: Policy
    keys: tuple[KeyLife, ...]
    requests: tuple[Decided, ...]
    backups: tuple[BackupTaken, ...]
    recovery_tests: tuple[RecoveryTested, ...]
    incidents: tuple[IncidentTold, ...]
    since: datetime
    timestamps: tuple[TimeStamped, ...] = ()
    period: Period | None = None
    access: AccessSummary | None = None
    algorithm: Algorithm = Algorithm()
    not_included: tuple[str, ...] = (NO_ACCESS, *NOT_INCLUDED)

    def as_json(self) -> dict[str, Any]:
        """The object of `report --format json`; a change of it is a new `schema`."""
        return {"schema": SCHEMA, "generated_at_is": "the time of the newest audit event", **as_json(self)}
