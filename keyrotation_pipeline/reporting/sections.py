"""The sections of the compliance report, as values, with the key rotation policy as the report states it.

Source of the policy: the source procedure, sections 1.2, 2, 4 and 7.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from keyrotation_pipeline.model.breach import ResponseStage
from keyrotation_pipeline.model.incidents import IncidentType, KeyReadsBy, RecordReads
from keyrotation_pipeline.model.keys import DUTIES
from keyrotation_pipeline.model.requests import Step

TRIGGERS: Mapping[IncidentType, str] = {
    IncidentType.KEY_EXPOSED: "an encryption key is exposed in version control, logs or error messages",
    IncidentType.UNAUTHORIZED_ACCESS: "somebody gains access to the secrets manager or environment without permission",
    IncidentType.SERVER_COMPROMISE: "a security incident affects application servers",
    IncidentType.INSIDER: "an employee with access to keys leaves the organisation under suspicious circumstances",
    IncidentType.LIBRARY_ADVISORY: "a third-party security advisory affects the encryption library",
    IncidentType.OTHER: "anything else by which officers judge a key to be at risk",
}
STAGES: Mapping[ResponseStage, str] = {
    ResponseStage.ASSESSED: "the incident is assessed",
    ResponseStage.DUAL_KEY: "every instance reads a new key",
    ResponseStage.REENCRYPTED: "every row is re-encrypted",
    ResponseStage.RETIRED_AND_AUDITED: "the old key is retired, and it is documented",
}
RESPONSE = tuple(f"within {each.within.total_seconds() / 3600:.0f} hours: {said}" for each, said in STAGES.items())
STEPS: Mapping[Step, str] = {
    Step.KEY_VERSION: "the new key is generated, stored, read back, compared, backed up and registered",
    Step.DUAL_KEY_ROLLOUT: "every application instance reads the new key in addition to the old one",
    Step.PRIMARY_KEY_ROLLOUT: "the new key becomes the primary, and every instance writes under it",
    Step.ROWS: "every row is re-encrypted under the new key",
    Step.ZERO_OLD_ROWS_PROOF: "it is proven that nothing is left under the old key: every value is decrypted, and the "
    "database refuses the old version",
    Step.RETIRED_KEY: "the old key is withdrawn from the applications, on evidence that is taken again",
    Step.ARCHIVED_KEY: "every instance is seen without the old key, which is archived",
    Step.KEY_ROTATION_AUDIT: "the row of the key rotation audit table is completed",
    Step.COMPLIANCE_REPORT: "the evidence is summed up in the audit",
}
BACKUPS = (
    "every day, and after each rotation, keys and database are backed up together, encrypted, to two places or more",
    "every quarter a recovery test restores the newest backup on a scratch server, decrypts it and reads every value",
)


@dataclass(frozen=True, slots=True)
class OfficerOnRoster:
    """An officer who may approve; the fingerprint is that of the certificate's primary key."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy: when keys change, who must agree, and how it is done.

    Args:
        next_rotation_due, rule: when it is due, and which rule says so; None: no key is active.
        emergency_triggers: what calls for an emergency rotation.
        response: the stages after an incident was discovered.
        calendar: what each quarter of the year is for.
        procedure: the steps of a rotation, in order.
    """

    required: int
    officers: tuple[OfficerOnRoster, ...]
    recipients: tuple[str, ...]
    next_rotation_due: datetime | None
    rule: str | None
    schedule: str = "every 12 months"
    emergency: str = "within 24 hours of the request, for an incident"
    emergency_triggers: tuple[str, ...] = tuple(TRIGGERS.values())
    response: tuple[str, ...] = RESPONSE
    calendar: tuple[str, ...] = DUTIES
    approval: str = "signatures of different officers over the exact text, verified again before each deed"
    procedure: tuple[str, ...] = tuple(STEPS.values())
    backups: tuple[str, ...] = BACKUPS


@dataclass(frozen=True, slots=True)
class Span:
    """The period in which a version was the primary.

    Args:
        since: None: not known, since the key was imported and nobody has declared its age.
        until: None: it still is.
    """

    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class AgeDeclared:
    """Since when an imported key has been in use, as somebody declared; no record shows it."""

    since: datetime
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A version got another state."""

    state: str
    at: datetime


@dataclass(frozen=True, slots=True)
class KeyLife:
    """One key version.

    Args:
        fingerprint: SHA-256 over a fixed label and the key; never the key.
        origin: ``generated`` by the pipeline, ``imported``, or ``held by a server``, which made it.
        declared: every declaration of an imported key's age, the newest last; none: it is unknown, or generated.
        cryptoperiods: when it encrypted.
        changes: every state that it got since it was registered, in order.
    """

    version: str
    state: str
    fingerprint: str
    origin: str
    registered_at: datetime
    declared: tuple[AgeDeclared, ...]
    cryptoperiods: tuple[Span, ...]
    changes: tuple[KeyChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Approval:
    """One officer's signature on a request, which verifies."""

    officer: str
    fingerprint: str
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step of a rotation or rollback, and when it ended."""

    step: str
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class LaterFinding:
    """What a later reading of the database found under a key that was retired: the event, its time and a sentence.

    Args:
        gone: whether a still later reading of the same found nothing.
    """

    seq: int
    at: datetime
    said: str
    gone: bool


@dataclass(frozen=True, slots=True)
class Decided:
    """One request of any action, with its approvals.

    Args:
        required: how many officers must sign.
        records_reencrypted: None: its action re-encrypts none.
        documented_at: when its row of `key_rotation_audit` was completed; None: it has none, or it is not complete.
        retirement: the evidence for retiring the old key; empty: it was not retired.
        not_read_again: what nothing has read since the retirement began.
        later_findings: what was found since under the key that was retired, with whether it was found gone later.
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
    required: int
    approvals: tuple[Approval, ...]
    steps: tuple[FinishedStep, ...]
    records_reencrypted: int | None
    documented_at: datetime | None = None
    retirement: Mapping[str, Any] = field(default_factory=dict)
    not_read_again: str | None = None
    later_findings: tuple[LaterFinding, ...] = ()


@dataclass(frozen=True, slots=True)
class TableCounted:
    """The newest count of one declared table.

    Args:
        values_by_version: values under each key version, over all declared columns.
    """

    table: str
    columns: tuple[str, ...]
    rows: int
    values_by_version: Mapping[str, int]
    unencrypted: int
    unreadable: int
    counted_at: datetime


@dataclass(frozen=True, slots=True)
class EveryValueRead:
    """The newest reading of every value, by `keyrotation verify` or the proof of a rotation; `failures` did not."""

    at: datetime
    by: str
    tables: tuple[str, ...]
    values: int
    failures: int


@dataclass(frozen=True, slots=True)
class UndeclaredSearched:
    """The newest search of everything that is not declared, by `keyrotation inventory`; a sentence for each finding."""

    at: datetime
    findings: tuple[str, ...]
    not_searched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlaintextKnown:
    """Where plaintext of columns that are encrypted by now is known outside the live rows.

    Args:
        at: of the newest look that found something else than the one before.
        columns: each with since when no live row holds plaintext.
        places: where, what is known of it, and until when.
    """

    at: datetime
    columns: tuple[str, ...]
    places: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class DataRead:
    """What was last read of the encrypted data, and when; None: never.

    Args:
        tables: the declared ones that were counted, as of the newest count of any.
        not_counted: the declared ones that never were.
        plaintext: None: no column was encrypted from plaintext.
    """

    tables: tuple[TableCounted, ...]
    not_counted: tuple[str, ...]
    every_value: EveryValueRead | None
    undeclared: UndeclaredSearched | None
    plaintext: PlaintextKnown | None = None


@dataclass(frozen=True, slots=True)
class BackupTaken:
    """One backup; `failures` has a sentence for each part that is missing.

    Args:
        made_at: the moment that it shows; None: nothing was made.
        keys: fingerprints by version.
        recipients: fingerprints of the certificates that can decrypt it.
        made_from: manifest of the older set whose rows it holds under another key; None: it is no such set.
        compromised: versions that are now compromised, and that its dump needs or whose key it holds.
        replaced_by: manifest of the set that has its rows under another key; None: there is none.
        members: the members of a fleet that it has a dump of.
    """

    at: datetime
    manifest: str | None
    made_at: datetime | None
    keys: Mapping[str, str]
    has_dump: bool
    places: tuple[str, ...]
    recipients: tuple[str, ...]
    failures: tuple[str, ...]
    made_from: str | None = None
    compromised: tuple[str, ...] = ()
    replaced_by: str | None = None
    members: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether it holds keys and database of one moment, in every place."""
        return self.has_dump and not self.failures and self.made_from is None


@dataclass(frozen=True, slots=True)
class BackupsFound:
    """The newest look for the newest backup in each place: its signed manifest, other files by name and size.

    Args:
        manifest: of the newest set that each of `places` held completely; None: there was none.
        problems: a sentence for each reason why a newer set did not count, or why nobody could look.
    """

    at: datetime
    manifest: str | None
    places: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecoveryTested:
    """One recovery test. RTO and RPO are measured, next to their objectives.

    Args:
        failure: why it failed, or why its record does not show that it passed; None: it passed.
        manifest: of the set that was restored.
        rows: how many each of its declared tables had there.
        scratch_server: system identifier of the server that it was restored into.
        members: the members of a fleet that were restored, too.
    """

    at: datetime
    place: str
    failure: str | None
    rto_seconds: float | None = None
    rto_allowed_seconds: float | None = None
    rpo_seconds: float | None = None
    rpo_allowed_seconds: float | None = None
    manifest: str | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    scratch_server: str | None = None
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberProtected:
    """A member of a fleet, and how it is protected against loss, by the whole audit.

    Args:
        place: as officers signed it last: name and system identifier of the database.
        manifest: of the newest set with a dump of it; None: there is none.
        tested_at: when a dump of it was last restored by a recovery test that passed; None: never.
    """

    name: str
    place: str
    manifest: str | None
    dumped_at: datetime | None
    tested_at: datetime | None


@dataclass(frozen=True, slots=True)
class AuditVerified:
    """The head of the chain, which was verified with its anchors, tables and signatures before anything was read."""

    seq: int
    head: str


@dataclass(frozen=True, slots=True)
class CheckpointSigned:
    """The last that a witness outside has signed of the audit, whose signature verifies.

    Args:
        witness: its name, which stands with its key among the hosts that officers signed.
        origin: the name of the audit there.
        events: how many, from the first one on.
        root: of their Merkle tree (RFC 6962), in hex.
        signed_at: by the witness's clock.
        contradicted: what the witness says of another history; None: nothing.
    """

    witness: str
    origin: str
    events: int
    root: str
    signed_at: datetime
    contradicted: str | None


@dataclass(frozen=True, slots=True)
class TimeStamped:
    """A head of the audit that an outside authority has seen.

    Args:
        recorded_at: when the event of that head happened, by our clock.
        stamped_at: when the authority saw it, by its clock.
        certificates: SHA-256 of those that it was verified with.
        refusal: why it does not count; None: it verifies with the configured certificates.
    """

    seq: int
    head: str
    recorded_at: datetime
    stamped_at: datetime
    authority: str
    certificates: tuple[str, ...]
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Algorithm:
    """How values are encrypted."""

    cipher: str = "AES-256-GCM (NIST SP 800-38D), no associated data"
    key_bits: int | None = 256
    nonce_bits: int | None = 96
    key_generation: str = "random bytes of the operating system, for keys that the pipeline generates"
    key_states: str = "NIST SP 800-57 Part 1"


@dataclass(frozen=True, slots=True)
class KeyStorageKey:
    """The key-storage key (SP 800-57 part 1, 5.1.1) of stored keys, in a KMS or a token.

    Args:
        kind, name: ``aws-kms`` and its ARN, or ``pkcs11`` and its URI.
        at: the host or module by which it is reached.
        recovery: ``officers``: backups hold keys that officers open without it; ``sealed``: they do not.
        origin: where it comes from, in the words of its KMS or token, when that was asked last.
        exposed: why a copy of it may be elsewhere; empty: nothing says that there is one.
        asked_at: None: it was never asked.
    """

    kind: str
    name: str
    at: str
    recovery: str
    origin: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    asked_at: datetime | None = None

    @classmethod
    def signed_in(cls, hosts: Iterable[str]) -> "KeyStorageKey | None":
        """Returns the one that is among signed hosts; None: there is none."""
        for kind, name, at, recovery in (
            match.groups() for each in hosts if (match := _KEY_STORAGE_KEY.fullmatch(each))
        ):
            return cls(kind, name, at, recovery)
        return None


_KEY_STORAGE_KEY = re.compile(r"keys sealed by (\S+) (\S+) at (.+) with recovery (officers|sealed)")


@dataclass(frozen=True, slots=True)
class AccessSummary:
    """Who read keys and records in a period, rare readers first; None: no log is configured."""

    since: datetime
    until: datetime
    key_reads: tuple[KeyReadsBy, ...] | None
    record_reads: tuple[RecordReads, ...] | None
