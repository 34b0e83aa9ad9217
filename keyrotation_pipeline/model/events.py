"""Every kind of audit event, and what an event says.

A record (`model.request_events`, `model.key_events`) has its facts as fields, so that whoever reads one cannot misspell
them. An event that no code reads back is a `Note`: its facts are free JSON, for people.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from keyrotation_pipeline.model.facts import as_json, json_safe


class EventKind(StrEnum):
    """What happened."""

    ROSTER_PINNED = "roster_pinned"
    ROSTER_KEEPING_INTENDED = "roster_digest_to_key_store_intended"
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
    KEY_STATE_CHANGED = "key_state_changed"
    PRIMARY_CHANGE_INTENDED = "primary_change_intended"
    PRIMARY_CHANGED = "primary_changed"
    COMPROMISE_TELLING_INTENDED = "compromised_versions_to_key_store_intended"
    RETIREMENT_INTENDED = "retire_key_intended"
    REPLICAS_ACCOUNTED = "replicas_accounted"
    KEY_RETIRED = "key_retired"
    PROVEN_AGAIN = "zero_old_rows_proven_again"
    KEY_DESTRUCTION_INTENDED = "key_destruction_intended"
    KEY_DESTROYED = "key_destroyed"
    DATABASE_RECONCILED = "database_reconciled"
    ROLLBACK_POST_MORTEM = "rollback_post_mortem"
    ROTATION_AUDIT_WRITTEN = "rotation_audit_written"
    COUNTED = "counted"
    BACKUP_KEY_PINNED = "backup_key_pinned"
    BACKUP_SEALED = "backup_sealed"
    UNSIGNED_BACKUP_TRUSTED = "unsigned_backup_trusted"
    BACKUP_MADE = "backup_made"
    BACKUP_INCOMPLETE = "backup_incomplete"
    BACKUP_REKEY_INTENDED = "backup_rekey_intended"
    BACKUP_REKEYED = "backup_rekeyed"
    BACKUPS_REMOVAL_INTENDED = "local_backups_removal_intended"
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
    BREACH_ASSESSED = "breach_assessed"
    ASSESSMENT_SIGNED = "breach_assessment_signed"
    REPORT_KEPT = "incident_report_kept"
    AUDIT_TIMESTAMPED = "audit_timestamped"
    TIMESTAMP_FAILED = "audit_timestamp_failed"
    ALERT_TOLD = "alert_told"
    CHANNEL_FAILED = "alert_channel_failed"


class Fact:
    """What one event says; each subclass is a frozen dataclass with the kind of its event."""

    __slots__ = ()
    kind: ClassVar[EventKind]

    def as_json(self) -> dict[str, Any]:
        """The facts of the event, as they are stored."""
        return as_json(self)


@dataclass(frozen=True, slots=True)
class Note:
    """An event for people, which no code reads back. The facts are any plain JSON."""

    kind: EventKind
    facts: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The facts of the event, as they are stored."""
        return json_safe(self.facts)
