"""When a rotation is due, and what is being done about it: one answer for `status`, the check and the alerts."""

from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.keys import RotationDue, rotation_due
from keyrotation_pipeline.model.requests import RotationType, Walk
from keyrotation_pipeline.requests import takeover
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.keys import declared_activations


@dataclass(frozen=True, slots=True)
class DueRotation:
    """When a rotation must be finished, and the one that is open.

    Args:
        walk: None: nobody has requested one.
        stopped_by: what only people can change, such as a missing signature; None: the walk continues by itself.
        now: the time of this check.
    """

    due: RotationDue
    walk: Walk | None
    stopped_by: str | None
    now: datetime

    @property
    def overdue(self) -> bool:
        """Whether that time has passed."""
        return self.due.overdue(self.now)

    @property
    def under_way(self) -> bool:
        """Whether a signed walk is open that nothing stops."""
        return self.walk is not None and self.stopped_by is None

    @property
    def in_time(self) -> bool:
        """Whether it is not due soon, or an open routine walk may finish in time."""
        if self.overdue or not self.due.soon(self.now):
            return not self.overdue
        if self.walk is None or self.walk.type is not RotationType.ROUTINE:
            return False
        return self.walk.not_before is None or self.walk.not_before < self.due.at

    @property
    def needs_people(self) -> bool:
        """Whether it is overdue, and no walk is under way, or only an emergency one."""
        routine = self.walk is not None and self.walk.type is RotationType.ROUTINE
        return self.overdue and not (self.under_way and routine)

    @property
    def message(self) -> str:
        """What is open and what it waits for, or what to type."""
        if self.walk is None:
            return "run `keyrotation request --reason TEXT`"
        state = "is under way" if self.walk.started_at is not None else "is approved"
        return self.stopped_by or f"{self.walk.action} {self.walk.id} {state}"


def due_rotation(situation: Situation, primary: KeyVersion | None) -> DueRotation | None:
    """When the primary must be rotated, and what is being done; None: there is no registered primary."""
    pipeline = situation.pipeline
    if primary is None:
        return None
    requests, declared = pipeline.ledger.requests(), declared_activations(pipeline.ledger)
    due = rotation_due(primary, pipeline.ledger.keys(), requests, declared)
    if due is None:
        return None
    walk = takeover.current_or_next(pipeline)
    return DueRotation(due, walk, _stopped_by(situation, walk) if walk else None, pipeline.clock.now())


def _stopped_by(situation: Situation, walk: Walk) -> str | None:
    if (reason := runner.pending(situation, walk, to_start=True)) is not None:
        return str(reason)
    return f"{walk.action} {walk.id} is blocked; see `keyrotation status`" if walk.failure else None
