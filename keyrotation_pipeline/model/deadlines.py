"""The clock of an incident: four stages, each with its last moment, counted from discovery.

Source: the seed procedure, section 2.2: assessed within 4 hours, both keys deployed within 8, everything re-encrypted
within 24, the compromised key retired and the impact audited within 48.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from keyrotation_pipeline.model.incident import Incident
from keyrotation_pipeline.model.request import Request, RequestStatus, RotationType, Step, Walk

# Alerts at half of a stage's time, at four fifths, and at its end.
THRESHOLDS_PERCENT = (50, 80, 100)


class Stage(StrEnum):
    """What must be reached."""

    ASSESSED = "assessed"
    DUAL_KEY = "dual_key"
    REENCRYPTED = "reencrypted"
    RETIRED_AND_AUDITED = "retired_and_audited"

    @property
    def within(self) -> timedelta:
        """From discovery."""
        return timedelta(hours=_HOURS[self])


_HOURS = {Stage.ASSESSED: 4, Stage.DUAL_KEY: 8, Stage.REENCRYPTED: 24, Stage.RETIRED_AND_AUDITED: 48}
# Assessed means that officers have signed, or that the incident was closed: what is to be done is decided.
_REACHED_BY = {
    Stage.DUAL_KEY: Step.DUAL_KEY_ROLLOUT,
    Stage.REENCRYPTED: Step.ZERO_OLD_ROWS_PROOF,
    Stage.RETIRED_AND_AUDITED: Step.KEY_ROTATION_AUDIT,
}


@dataclass(frozen=True, slots=True)
class Deadline:
    """One stage of one incident; `reached_at` None: not yet."""

    stage: Stage
    discovered_at: datetime
    reached_at: datetime | None

    @property
    def due_at(self) -> datetime:
        """The last moment."""
        return self.discovered_at + self.stage.within

    def seconds_left(self, now: datetime) -> int | None:
        """Negative once it has passed; None when the stage was reached."""
        return None if self.reached_at is not None else int((self.due_at - now).total_seconds())

    def passed_percent(self, now: datetime) -> int | None:
        """The highest of the thresholds whose time has come while the stage is not reached; None: none has."""
        if self.reached_at is not None:
            return None
        used = (now - self.discovered_at) / self.stage.within * 100
        return max((percent for percent in THRESHOLDS_PERCENT if used >= percent), default=None)


@dataclass(frozen=True, slots=True)
class Rate:
    """Rows a second: needed from now on to be in time, and measured since writes moved."""

    needed: float
    measured: float

    def __str__(self) -> str:
        return f"needs {self.needed:,.0f} rows/s, doing {self.measured:,.0f}"


def deadlines(incident: Incident, carrier: Request | None, signed_at: datetime | None) -> tuple[Deadline, ...]:
    """Every stage of an incident.

    Args:
        carrier: the request that carries it; see `carried_by`.
        signed_at: when enough officers had signed that; None: not yet.
    """
    reached: dict[Stage, datetime | None] = {Stage.ASSESSED: signed_at or incident.closed_at}
    for stage, step in _REACHED_BY.items():
        record = carrier.done(step) if isinstance(carrier, Walk) else None
        reached[stage] = record.finished_at if record is not None else incident.closed_at
    return tuple(Deadline(stage, incident.discovered_at, reached[stage]) for stage in Stage)


def carried_by(incident: Incident, requests: Sequence[Request]) -> Request | None:
    """The request that an incident's key is replaced by: the prepared one, or whatever emergency took that over."""
    by_id: Mapping[str, Request] = {each.id: each for each in requests}
    carrier = by_id.get(incident.request or "")
    while carrier is not None and carrier.status is RequestStatus.CANCELLED:
        former = carrier.id
        successor = next((each for each in requests if each.supersedes == former and _is_under_way(each)), None)
        if successor is None:
            return carrier
        carrier = successor
    return carrier


def _is_under_way(request: Request) -> bool:
    return request.type is RotationType.EMERGENCY and request.started_at is not None


def rate_needed(rows_left: float, deadline: Deadline, now: datetime) -> float | None:
    """Rows a second from now on, so that the stage is reached in time; None when it is reached or too late."""
    left = deadline.seconds_left(now)
    return None if left is None or left <= 0 else rows_left / left
