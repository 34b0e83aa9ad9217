"""The compliance report as a value: what an auditor asks for, read only from the verified audit.

Source: the source procedure, section 8.3.
"""

from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.reporting.checklist import Checklist
from keyrotation_pipeline.reporting.incidents_in_audit import IncidentReported
from keyrotation_pipeline.reporting.sections import (
    AccessSummary,
    Algorithm,
    AuditVerified,
    BackupsFound,
    BackupTaken,
    CheckpointSigned,
    DataRead,
    Decided,
    KeyLife,
    KeyStorageKey,
    MemberProtected,
    Policy,
    RecoveryTested,
    TimeStamped,
)

SCHEMA = 5
ALGORITHM = Algorithm()
NO_ACCESS = (
    "who read the key and who read records: give --from, where [incidents] names the logs, or run "
    "`keyrotation incident access`"
)
NOT_INCLUDED = (
    "what is in the files of backups, of which the newest were looked for by name and size: a recovery test reads them",
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
class Cryptography:
    """How values are encrypted, as the process that made the report knows; applications have modules of their own.

    Args:
        format: of the values, where it is that of another library.
        modules: of that process, with version and provider.
        findings: what NIST advises against in the format.
    """

    format: str | None
    modules: tuple[str, ...]
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stated:
    """What only configuration and process say: no event of the audit does, and nobody has signed it.

    Args:
        organisation: whose report it is; None: not named.
        rto_seconds, rpo_seconds: recovery objectives; None: not stated.
        cryptography: None: not stated, as in reports of before it was.
    """

    organisation: str | None = None
    rto_seconds: int | None = None
    rpo_seconds: int | None = None
    cryptography: Cryptography | None = None


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a report depends on besides the audit and the moment; it stands in the report itself.

    Args:
        period: None: the whole audit.
        timestamps_verified: whether certificates were configured that every time stamp verifies with.
    """

    period: Period | None = None
    timestamps_verified: bool = False
    stated: Stated = Stated()


@dataclass(frozen=True, slots=True)
class ComplianceReport:
    """The whole report; requests, backups, tests and incidents in the order of the audit.

    Args:
        generated_at: when it was made; ages and deadlines are judged at this moment, or at the end of the period.
        since: the time of the first event.
        audit_ends_at: the time of the newest event.
        checklists: one for each rotation among the requests.
        backups_found: the newest look for the backups; None: nobody looked.
        key_storage_key: under which stored keys are sealed, as officers signed it last; None: under none.
        members: those of a fleet, each with its newest dump and test.
        access: not from the audit but from the logs that `[incidents]` names; None: not read.
    """

    generated_at: datetime
    parameters: Parameters
    database: str
    audit: AuditVerified
    since: datetime
    audit_ends_at: datetime
    policy: Policy
    keys: tuple[KeyLife, ...]
    data: DataRead
    requests: tuple[Decided, ...]
    backups: tuple[BackupTaken, ...]
    recovery_tests: tuple[RecoveryTested, ...]
    incidents: tuple[IncidentReported, ...]
    checklists: tuple[Checklist, ...] = ()
    timestamps: tuple[TimeStamped, ...] = ()
    backups_found: BackupsFound | None = None
    checkpoints: tuple[CheckpointSigned, ...] = ()
    access: AccessSummary | None = None
    algorithm: Algorithm = ALGORITHM
    key_storage_key: KeyStorageKey | None = None
    members: tuple[MemberProtected, ...] = ()
    not_included: tuple[str, ...] = (NO_ACCESS, *NOT_INCLUDED)

    @property
    def as_of(self) -> datetime:
        """The moment at which ages and deadlines are judged."""
        until = self.parameters.period.until if self.parameters.period else None
        return min(self.generated_at, until or self.generated_at)

    @property
    def active_key(self) -> KeyLife | None:
        """The key that applications encrypt with."""
        return next((key for key in self.keys if key.state == "active"), None)
