"""Rows of the schema `keyrotation` ↔ values of `model`."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from psycopg.types.json import Jsonb

from keyrotation_pipeline.adapters.postgres.ledger.transactions import Row
from keyrotation_pipeline.audit.replay import by_name
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Officer, Roster, left_to_people
from keyrotation_pipeline.model.audit import json_safe
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.request_events import RotationAuditWritten
from keyrotation_pipeline.model.requests import (
    Request,
    RequestAction,
    RequestStatus,
    RotationType,
    Step,
    StepRecord,
    Walk,
)
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount


def request_of(row: Row) -> Request:
    """A row of `rotations` with its `steps` (JSON) and `approvals` (an array)."""
    action = RequestAction(row["action"])
    content: dict[str, Any] = {
        "id": row["id"],
        "type": RotationType(row["type"]),
        "action": action,
        "source": KeyVersion(row["source_version"]),
        "source_fingerprint": row["source_fingerprint"],
        "target": KeyVersion(row["target_version"]),
        "reason": row["reason"],
        "incident": row["incident"],
        "requested_by": row["requested_by"],
        "requested_at": row["requested_at"],
        "start_by": row["start_by"],
        "finish_by": row["finish_by"],
        "audit_head": (row["audit_seq"], row["audit_hash"]),
        "status": RequestStatus(row["status"]),
        "approvals": tuple(row["approvals"]),
        "started_at": row["started_at"],
        "finished_at": row["finished_at"],
        "blocked_by": row["blocked_by"],
        "supersedes": row["supersedes"],
        "not_before": row["not_before"],
        "manual": left_to_people(bytes(row["approval_text"])),
    }
    if not action.walks:
        return Request(**content)
    steps = tuple(sorted(map(_step_of, row["steps"]), key=by_name))
    return Walk(**content, steps=steps, promotion_xid=row["promotion_xid"])


def row_of(request: Request, text: bytes) -> dict[str, object]:
    """The parameters that insert a new request."""
    return {
        "id": request.id,
        "type": str(request.type),
        "action": str(request.action),
        "source_version": request.source.number,
        "source_fingerprint": request.source_fingerprint,
        "target_version": request.target.number,
        "reason": request.reason,
        "incident": request.incident,
        "requested_by": request.requested_by,
        "requested_at": request.requested_at,
        "start_by": request.start_by,
        "finish_by": request.finish_by,
        "audit_seq": request.audit_head[0],
        "audit_hash": request.audit_head[1],
        "approval_text": text,
        "status": str(request.status),
        "supersedes": request.supersedes,
        "not_before": request.not_before,
    }


def key_of(row: Row) -> KeyRecord:
    """A row of `key_versions`."""
    return KeyRecord(KeyVersion(row["version"]), KeyState(row["state"]), row["fingerprint"], row["created_at"])


def roster_of(row: Row) -> Roster:
    """A row of `rosters`."""
    officers = tuple(
        Officer(each["name"], each["fingerprint"], each.get("certificate", "")) for each in row["officers"]
    )
    return Roster(row["required"], officers, tuple(row["recipients"]))


def count_facts(count: TableCount) -> dict[str, Any]:
    """One table's counts as JSON, without the time."""
    return {
        "table": str(count.table.name),
        "columns": list(count.table.columns),
        "rows": count.rows,
        "values_by_version": _by_name(count.values_by_version),
        "empty": count.empty,
        "unencrypted": count.unencrypted,
        "near_misses": count.near_misses,
        "unreadable": count.unreadable,
        "fenced_against": [str(version) for version in count.fenced_against],
        "by_column": {column: _by_name(values) for column, values in count.by_column.items()},
        "unencrypted_by_column": dict(count.unencrypted_by_column),
    }


def count_of(table: EncryptedTable, facts: Mapping[str, Any], counted_at: datetime) -> TableCount:
    """What `count_facts` made."""
    return TableCount(
        table=table,
        rows=facts["rows"],
        values_by_version=_by_version(facts["values_by_version"]),
        empty=facts["empty"],
        unencrypted=facts["unencrypted"],
        near_misses=facts["near_misses"],
        unreadable=facts["unreadable"],
        fenced_against=tuple(KeyVersion.parse(name) for name in facts["fenced_against"]),
        counted_at=counted_at,
        by_column={column: _by_version(values) for column, values in facts["by_column"].items()},
        unencrypted_by_column=facts["unencrypted_by_column"],
    )


def audit_row_of(row: Row) -> RotationAuditWritten:
    """A row of `key_rotation_audit`, whose times are UTC without a zone."""
    completed = row["completion_date"]
    return RotationAuditWritten(
        id=row["id"],
        rotation_date=row["rotation_date"].replace(tzinfo=UTC),
        old_key_version=row["old_key_version"],
        new_key_version=row["new_key_version"],
        rotation_type=row["rotation_type"],
        initiated_by=row["initiated_by"],
        completion_date=completed.replace(tzinfo=UTC) if completed else None,
        records_reencrypted=row["records_reencrypted"],
        notes=row["notes"],
    )


def jsonb(facts: Mapping[str, Any]) -> Jsonb:
    """Facts as a parameter; only what is plain JSON."""
    return Jsonb(json_safe(facts), dumps=lambda plain: json.dumps(plain, ensure_ascii=True))


def _step_of(step: Mapping[str, Any]) -> StepRecord:
    return StepRecord(
        Step(step["step"]),
        step["table_name"] or None,
        None if step["shard"] < 0 else step["shard"],
        datetime.fromisoformat(step["finished_at"]),
        step["facts"],
    )


def _by_name(values: Mapping[KeyVersion, int]) -> dict[str, int]:
    return {str(version): number for version, number in values.items()}


def _by_version(values: Mapping[str, int]) -> dict[KeyVersion, int]:
    return {KeyVersion.parse(name): number for name, number in values.items()}
