"""Converts between rows of the schema `keyrotation` and values of `model`."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from psycopg.types.json import Jsonb

from keyrotation_pipeline.adapters.postgres.ledger.transactions import Row
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.records import json_safe
from keyrotation_pipeline.model.request_events import RotationAuditWritten
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount


def count_of(table: EncryptedTable, facts: Mapping[str, Any], counted_at: datetime) -> TableCount:
    """Converts a `CountedTable` as JSON back."""
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
    """Converts a row of `key_rotation_audit`, whose times are UTC without a zone."""
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
    """Converts facts to a parameter; accepts only plain JSON."""
    return Jsonb(json_safe(facts), dumps=lambda plain: json.dumps(plain, ensure_ascii=True))


def _by_version(values: Mapping[str, int]) -> dict[KeyVersion, int]:
    return {KeyVersion.parse(name): number for name, number in values.items()}
