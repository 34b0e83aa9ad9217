"""The facts of a finished step as metadata: counts, speeds, versions, short fingerprints; never content."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.request import StepRecord, Walk

FINGERPRINT_DIGITS_SHOWN = 16


def metadata_of(
    rotation: Walk, record: StepRecord, head: AuditHead, *, seconds: float | None = None
) -> Mapping[str, dg.MetadataValue]:
    """Everything a DBA asks of a finished step, as Dagster shows it.

    `seconds` is how long it took, for a step that does not say so itself.
    """
    facts = {"seconds": seconds, **record.facts} if seconds is not None else dict(record.facts)
    shown: dict[str, dg.MetadataValue] = {
        "rotation": dg.MetadataValue.text(rotation.id),
        "from": dg.MetadataValue.text(str(rotation.source)),
        "to": dg.MetadataValue.text(str(rotation.target)),
        "finished_at": dg.MetadataValue.timestamp(record.finished_at),
        "audit_seq": dg.MetadataValue.int(head.seq),
    }
    for name, fact in facts.items():
        if name not in shown and fact is not None:
            shown[name] = _value(name, fact)
    if (speed := _rows_per_second(facts)) is not None:
        shown.setdefault("rows_per_second", dg.MetadataValue.float(speed))
    return shown


def _value(name: str, fact: object) -> dg.MetadataValue:
    match fact:
        case bool():
            return dg.MetadataValue.bool(fact)
        case int():
            return dg.MetadataValue.int(fact)
        case float():
            return dg.MetadataValue.float(round(fact, 3))
        case str():
            return dg.MetadataValue.text(fact[:FINGERPRINT_DIGITS_SHOWN] if "fingerprint" in name else fact)
        case dict() | list():
            return dg.MetadataValue.json(fact)
        case _:
            return dg.MetadataValue.text(str(fact))


def _rows_per_second(facts: Mapping[str, Any]) -> float | None:
    rows, seconds = facts.get("rows"), facts.get("seconds")
    if not isinstance(rows, int) or not isinstance(seconds, int | float) or seconds <= 0:
        return None
    return round(rows / seconds, 1)
