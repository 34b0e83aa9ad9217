"""Audit events: their kinds and facts, the chain that links them, and the envelope (DSSE) of signed statements."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.records import as_json, json_safe

LABEL = b"keyrotation-audit-v1"
GENESIS = "0" * 64
HASH_BYTES = 32
# How far a host's clock may be from the database server's. So an event may seem older than its predecessor by up to
# twice that, if two hosts wrote them.
CLOCKS_DIFFER_BY = timedelta(seconds=10)
EVENTS_DIFFER_BY = 2 * CLOCKS_DIFFER_BY
RETRIED = "retried"  # a fact of `EventKind.RUN_FAILED`: the run is retried by itself, so that nobody is alerted


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The newest event: what approvals, manifests and reports anchor. seq 0 with the zero hash: no event yet."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class FormerEvents:
    """Events of the copy of the audit in a member of a fleet that the audit does not hold.

    Args:
        first: the seq of the first of them.
    """

    first: int
    last: AuditHead


@dataclass(frozen=True)
class AuditEvent:
    """One stored event: `body` is the canonical JSON exactly as stored, `hash` chains it to `previous`.

    Args:
        kind, request: from the index next to the body. The body is authoritative; a filter must compare with it.
        signature: by whom it was appended, see `audit.event_signatures`; None: by an earlier version, or by nobody.
    """

    seq: int
    body: str
    previous: str
    hash: str
    kind: str
    request: str | None
    signature: str | None = None

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """The body, parsed once; raises ValueError or RecursionError if it is not canonical JSON."""
        content: Mapping[str, Any] = json.loads(self.body)
        if canonical(content) != self.body:
            raise ValueError  # such as a name that stands twice, of which readers may take either
        return content


def body_of(
    *, seq: int, at: datetime, actor: str, database: str, request: str | None, event: str, facts: Mapping[str, Any]
) -> str:
    """Canonical JSON (sorted keys, no spaces, ASCII) of one event."""
    content = {
        "actor": actor,
        "at": at.astimezone(UTC).isoformat(timespec="microseconds"),
        "database": database,
        "event": event,
        "facts": facts,
        "request": request,
        "seq": seq,
    }
    return canonical(content)


def canonical(content: Mapping[str, Any]) -> str:
    """JSON with sorted keys, no spaces, ASCII alone: the same content, the same text.

    Raises:
        ValueError: a number in it is none that JSON has.
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def stamped_bytes(previous: str, body: str) -> bytes:
    """The bytes under an event's hash and its time stamp: label, previous hash and body, all as ASCII."""
    return LABEL + previous.encode() + body.encode()


def hash_of(previous: str, body: str) -> str:
    """``SHA-256("keyrotation-audit-v1" ‖ previous hash ‖ bytes)``, all as ASCII bytes, in hex."""
    return hashlib.sha256(stamped_bytes(previous, body)).hexdigest()


def instant(at: datetime | None) -> str | None:
    """ISO 8601 in UTC with seconds, as times are in JSON."""
    return at.astimezone(UTC).isoformat(timespec="seconds") if at else None


def utc_minute(at: datetime) -> str:
    """``2026-11-24 15:30 UTC``, as times are in sentences."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def utc_second(at: datetime) -> str:
    """``2026-11-24 15:30:12 UTC``."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def counted(number: int, what: str) -> str:
    """``1 value``, ``2,000 values``, ``2 misses``: a number of things."""
    ending = "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{'' if number == 1 else ending}"


def names(versions: Iterable[KeyVersion]) -> list[str]:
    """Key versions as in JSON."""
    return [str(version) for version in versions]


class EventKind(StrEnum):
    """The kinds of audit events."""

    ROSTER_PINNED = "roster_pinned"
    ROSTER_KEEPING_INTENDED = "roster_digest_to_key_store_intended"
    HOSTS_PINNED = "hosts_pinned"
    MEMBER_JOINED = "member_joined"
    HOME_NAMED = "home_named"
    SERVER_SEEN = "server_seen"
    SIGNING_BEGUN = "audit_signing_begun"
    REQUEST_OPENED = "request_opened"
    SIGNATURE_ADDED = "signature_added"
    STATUS_CHANGED = "status_changed"
    STEP_FINISHED = "step_finished"
    PACE_SET = "pace_set"
    ROLLOUT_CONFIRMED = "rollout_confirmed"
    PROMOTION_RECORDED = "promotion_recorded"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    CANCEL_INTENDED = "cancel_intended"
    KEY_CREATION_INTENDED = "key_creation_intended"
    KEY_IMPORT_INTENDED = "key_import_intended"
    KEY_RESTORE_INTENDED = "key_restore_intended"
    KEY_RESTORED = "key_restored"
    KEY_BACKED_UP = "key_backed_up"
    KEY_REGISTERED = "key_registered"
    KEY_REPLACEMENT_PROPOSED = "key_replacement_proposed"
    KEY_REPLACED = "key_replaced"
    KEY_ACTIVATION_DECLARED = "key_activation_declared"
    SOURCE_KEY_IMPORTED = "source_key_imported"
    KEY_LIST_DELIVERY_INTENDED = "key_list_delivery_intended"
    KEYS_RESEAL_INTENDED = "keys_reseal_intended"
    KEYS_RESEALED = "keys_resealed"
    WRAPPING_KEY_DESCRIBED = "wrapping_key_described"
    KEY_STATE_CHANGED = "key_state_changed"
    PRIMARY_CHANGE_INTENDED = "primary_change_intended"
    PRIMARY_CHANGED = "primary_changed"
    COMPROMISE_TELLING_INTENDED = "compromised_versions_to_key_store_intended"
    RETIREMENT_INTENDED = "retire_key_intended"
    REPLICAS_ACCOUNTED = "replicas_accounted"
    MEMBER_PROVEN = "member_proven"
    KEY_RETIRED = "key_retired"
    PROVEN_AGAIN = "zero_old_rows_proven_again"
    KEY_DESTRUCTION_INTENDED = "key_destruction_intended"
    KEY_DESTROYED = "key_destroyed"
    DATABASE_RECONCILED = "database_reconciled"
    ROLLBACK_POST_MORTEM = "rollback_post_mortem"
    ROTATION_AUDIT_WRITTEN = "rotation_audit_written"
    COUNTED = "counted"
    COUNT_SKIPPED = "count_skipped"
    VALUES_DECRYPTED = "values_decrypted"
    UNDECLARED_COLUMNS_SEARCHED = "undeclared_columns_searched"
    PLAINTEXT_OUTSIDE_ROWS = "plaintext_outside_rows"
    BACKUP_KEY_PINNED = "backup_key_pinned"
    BACKUP_SEALED = "backup_sealed"
    UNSIGNED_BACKUP_TRUSTED = "unsigned_backup_trusted"
    BACKUP_MADE = "backup_made"
    BACKUP_INCOMPLETE = "backup_incomplete"
    BACKUP_REKEY_INTENDED = "backup_rekey_intended"
    BACKUP_REKEYED = "backup_rekeyed"
    BACKUPS_REMOVAL_INTENDED = "local_backups_removal_intended"
    BACKUPS_EXAMINED = "backups_examined"
    RECOVERY_TEST_STARTED = "recovery_test_started"
    RECOVERY_TEST_PASSED = "recovery_test_passed"
    RECOVERY_TEST_FAILED = "recovery_test_failed"
    RECOVERY_TEST_DUE = "recovery_test_due"
    REHEARSAL_STARTED = "rehearsal_started"
    REHEARSED = "rotation_rehearsed"
    REHEARSAL_FAILED = "rehearsal_failed"
    DATABASE_RESTORE_INTENDED = "database_restore_intended"
    DATABASE_RESTORED = "database_restored_beside"
    RUN_FAILED = "dagster_run_failed"
    INCIDENT_OPENED = "incident_opened"
    FLAG_REPEATED = "incident_flag_repeated"
    FLAG_SET_ASIDE = "incident_flag_set_aside"
    EMERGENCY_PREPARED = "emergency_request_prepared"
    INCIDENT_ACKNOWLEDGED = "incident_acknowledged"
    INCIDENT_CLOSED = "incident_closed"
    INCIDENT_AMENDED = "incident_amended"
    NOTICE_SENT = "breach_notice_sent"
    COMPARISON_STARTED = "incident_comparison_started"
    COMPARISON_FAILED = "incident_comparison_failed"
    VALUES_COMPARED = "incident_values_compared"
    BREACH_ASSESSED = "breach_assessed"
    ASSESSMENT_SIGNED = "breach_assessment_signed"
    REPORT_KEPT = "incident_report_kept"
    REPORT_WRITTEN = "report_written"
    AUDIT_TIMESTAMPED = "audit_timestamped"
    TIMESTAMP_FAILED = "audit_timestamp_failed"
    CHECKPOINT_WITNESSED = "checkpoint_witnessed"
    CHECKPOINT_REFUSED = "checkpoint_refused"
    ALERT_DELIVERED = "alert_told"
    CHANNEL_FAILED = "alert_channel_failed"


class Fact:
    """The facts of one event; each subclass is a frozen dataclass with the kind of its event."""

    __slots__ = ()
    kind: ClassVar[EventKind]

    def as_json(self) -> dict[str, Any]:
        """The facts of the event, as they are stored."""
        return as_json(self)


@dataclass(frozen=True, slots=True)
class Note:
    """An event for people only, which no code reads back. The facts are any plain JSON."""

    kind: EventKind
    facts: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The facts of the event, as they are stored."""
        return json_safe(self.facts)


PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"


def payload_of(statement: Mapping[str, Any]) -> bytes:
    """The bytes of a statement; the same statement, the same bytes."""
    return canonical(statement).encode("ascii")


def to_sign(payload: bytes) -> bytes:
    """The bytes to sign for a payload: type and content, each preceded by its length (PAE)."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def key_id(public: str) -> str:
    """The id of the signing key in an envelope: SHA-256, hex, of its SubjectPublicKeyInfo.

    Args:
        public: base64 of the SubjectPublicKeyInfo.
    """
    return hashlib.sha256(base64.b64decode(public)).hexdigest()


def envelope(payload: bytes, public: str, signature: bytes) -> bytes:
    """The envelope as a file."""
    content = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key_id(public), "sig": base64.b64encode(signature).decode()}],
    }
    return f"{json.dumps(content, indent=2)}\n".encode()
