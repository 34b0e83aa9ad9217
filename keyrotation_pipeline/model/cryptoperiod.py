"""When the primary key must be replaced: 12 months after it became the primary, 24 hours after an incident."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.keys import KeyRecord
from keyrotation_pipeline.model.request import Request, RequestAction, RotationType, Step, Walk

EMERGENCY = timedelta(hours=24)
REMINDER = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class RotationDue:
    """By when the running or the next rotation must be finished, and which rule says so."""

    at: datetime
    rule: str

    def overdue(self, now: datetime) -> bool:
        """Whether that time has passed."""
        return now > self.at

    def soon(self, now: datetime) -> bool:
        """Whether it is time to plan it: a month ahead."""
        return now > self.at - REMINDER


def rotation_due(primary: KeyVersion, keys: Sequence[KeyRecord], requests: Sequence[Request]) -> RotationDue | None:
    """By when the primary must be rotated; None when it was never registered.

    Source: the seed procedure, sections 1.2 and 2.2: every 12 months, and within 24 hours of an incident.
    """
    emergencies = [each.requested_at for each in requests if _is_open_emergency(each)]
    if emergencies:
        return RotationDue(min(emergencies) + EMERGENCY, "an emergency rotation ends within 24 hours of its request")
    since = activated_at(primary, keys, requests)
    if since is None:
        return None
    return RotationDue(_a_year_after(since), f"{primary} has been the primary for 12 months then")


def activated_at(primary: KeyVersion, keys: Sequence[KeyRecord], requests: Sequence[Request]) -> datetime | None:
    """When a version became the primary: by its promotion, or for an imported key by its registration."""
    promotions = [
        record.finished_at
        for rotation in requests
        # A rollback makes a key the primary again; the key does not get younger by it.
        if isinstance(rotation, Walk)
        and rotation.action is RequestAction.ROTATE
        and rotation.target == primary
        and (record := rotation.done(Step.PRIMARY_KEY_ROLLOUT)) is not None
    ]
    return max(promotions, default=next((key.created_at for key in keys if key.version == primary), None))


def _is_open_emergency(request: Request) -> bool:
    return request.type is RotationType.EMERGENCY and not request.is_over


def _a_year_after(at: datetime) -> datetime:
    try:
        return at.replace(year=at.year + 1)
    except ValueError:  # 29 February
        return at.replace(year=at.year + 1, day=28)
