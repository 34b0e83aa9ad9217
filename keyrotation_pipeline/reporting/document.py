"""The compliance report as JSON: the value, what it concludes, and each objective as it answers it."""

import json
import math
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime
from typing import Any

from keyrotation_pipeline.reporting.compliance import SCHEMA, ComplianceReport
from keyrotation_pipeline.reporting.conclusions import assessed, concluded


def document(report: ComplianceReport) -> dict[str, Any]:
    """The object of `report --format json`; a change of it is a new `schema`."""
    return {
        "schema": SCHEMA,
        **_plain(report),
        "conclusions": _plain(concluded(report)),
        "objectives": _plain(tuple(assessed(report))),
    }


def render_json(report: ComplianceReport) -> bytes:
    """The report for programs: the same value gives the same bytes."""
    return f"{json.dumps(document(report), indent=2, ensure_ascii=False)}\n".encode()


def _plain(value: Any) -> Any:  # noqa: ANN401  any JSON
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value
