"""The pace of a running rotation: one person may change it at any time, and the last word holds."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.model.incidents import plain_text
from keyrotation_pipeline.model.progress import PaceSet
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.ports.pipeline import Pipeline


def pace_of(pipeline: Pipeline, rotation: Walk) -> PaceSet | None:
    """The pace that was last set for a rotation; None: never, it goes as configured."""
    return next(reversed(list(recorded(pipeline.ledger, PaceSet, rotation.id))), None)


def set_pace(pipeline: Pipeline, rotation: Walk, changes: Mapping[str, Any], reason: str | None) -> PaceSet:
    """Set some parts of the pace, and leave the others as they were set before; the engine takes it within seconds.

    Args:
        changes: parts of `PaceSet` by name; empty: everything is as configured again.

    Raises:
        RequestError, ConfigurationError: a part cannot be, or the rotation is over.
        IncidentError: the reason is no plain line.
    """
    rotation = pipeline.ledger.walk(rotation.id)
    if rotation.is_over:
        raise RequestError(f"rotation {rotation.id} is {rotation.status}; see `keyrotation status` for one that runs")
    if reason is not None:
        plain_text("reason", reason)
    former = pace_of(pipeline, rotation) if changes else None
    pace = PaceSet(**{**asdict(former or PaceSet()), **changes, "reason": reason}).checked()
    pipeline.ledger.append(pace, rotation.id)
    return pace
