"""Requests as they are listed: those that wait, and those that are over."""

from dataclasses import dataclass
from typing import Any

from keyrotation_pipeline.model.facts import instant
from keyrotation_pipeline.model.request import Request, RequestStatus, Walk


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request that is not over.

    Args:
        signed_by: names of the officers who have signed.
        missing: names of those who have not.
        required: how many must.
    """

    request: Request
    signed_by: tuple[str, ...]
    missing: tuple[str, ...]
    required: int

    def as_json(self) -> dict[str, Any]:
        """As `requests --json` has it."""
        return {
            **_asked_for(self.request),
            "reason": self.request.reason,
            "incident": self.request.incident,
            "signed_by": list(self.signed_by),
            "missing": list(self.missing),
            "required": self.required,
            "status": str(self.request.status),
            "not_before": instant(self.request.not_before),
            "manual": self.request.manual,
            "start_by": instant(self.request.start_by),
            "finish_by": instant(self.request.finish_by),
        }


@dataclass(frozen=True, slots=True)
class PastRequest:
    """A request that is over.

    Args:
        rows: how many it re-encrypted; None: it is of a kind that re-encrypts none.
    """

    request: Request
    rows: int | None

    @property
    def seconds(self) -> float | None:
        """How long it took; None: it never started."""
        begun, ended = self.request.started_at, self.request.finished_at
        return round((ended - begun).total_seconds(), 3) if begun and ended else None

    @property
    def outcome(self) -> str:
        """How it ended; of a cancelled walk also after which step."""
        request = self.request
        if isinstance(request, Walk) and request.status is RequestStatus.CANCELLED and request.steps:
            return f"{request.status} after {max(request.steps, key=lambda each: each.finished_at).step}"
        return str(request.status)

    def as_json(self) -> dict[str, Any]:
        """As `history --json` has it."""
        return {
            **_asked_for(self.request),
            "started_at": instant(self.request.started_at),
            "finished_at": instant(self.request.finished_at),
            "seconds": self.seconds,
            "rows": self.rows,
            "outcome": self.outcome,
        }


def _asked_for(request: Request) -> dict[str, Any]:
    return {
        "id": request.id,
        "action": str(request.action),
        "type": str(request.type),
        "from": str(request.source),
        "to": str(request.target),
    }
