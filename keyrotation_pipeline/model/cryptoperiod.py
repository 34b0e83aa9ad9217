"""When the primary key must be replaced: 12 months after it became the primary, 24 hours after an incident."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.keys import KeyRecord
from keyrotation_pipeline.model.request import Request, RequestAction, RotationType, Step, Walk

EMERGENCY = timedelta(hours=24)
REMINDER = timedelta(days=60)
# The seed procedure, section 2.1, by quarter.
DUTIES = (
    "review the key rotation procedure",
    "make the new key, and deploy it beside the old one",
    "re-encrypt all data, and retire the old key",
    "audit the rotation, and update the documentation",
)


@dataclass(frozen=True, slots=True)
class RotationDue:
    """By when the running or the next rotation must be finished, and which rule says so."""

    at: datetime
    rule: str

    def overdue(self, now: datetime) -> bool:
        """Whether that time has passed."""
        return now > self.at

    def soon(self, now: datetime) -> bool:
        """Whether it is time to plan it: 60 days ahead."""
        return now > self.at - REMINDER


@dataclass(frozen=True, slots=True)
class Duty:
    """What the calendar asks for in a quarter, ``2026-Q4`` say."""

    quarter: str
    sentence: str


def duty_of(now: datetime) -> Duty:
    """The duty of the quarter that a moment is in."""
    quarter = (now.month - 1) // 3
    return Duty(f"{now.year}-Q{quarter + 1}", DUTIES[quarter])


def rotation_due(
    primary: KeyVersion,
    keys: Sequence[KeyRecord],
    requests: Sequence[Request],
    declared: Mapping[KeyVersion, datetime] = MappingProxyType({}),
) -> RotationDue | None:
    """By when the primary must be rotated; None when it was never registered.

    Args:
        declared: since when imported keys are in use, as far as somebody has said so. For the others it is not known:
            the moment is then the last that it can be.

    Source: the seed procedure, sections 1.2 and 2.2: every 12 months, and within 24 hours of an incident.
    """
    emergencies = [each.requested_at for each in requests if _is_open_emergency(each)]
    if emergencies:
        return RotationDue(min(emergencies) + EMERGENCY, "an emergency rotation ends within 24 hours of its request")
    if (since := promoted_at(primary, requests) or declared.get(primary)) is not None:
        return RotationDue(_a_year_after(since), f"{primary} has been the primary for 12 months then")
    registered = activated_at(primary, keys, requests)
    if registered is None:
        return None
    return RotationDue(
        _a_year_after(registered),
        f"{primary} was imported 12 months ago then, and is older by a time that is not known; "
        "write [keys] activated_at, and run `keyrotation init` again",
    )


def activated_at(primary: KeyVersion, keys: Sequence[KeyRecord], requests: Sequence[Request]) -> datetime | None:
    """When a version became the primary as far as the pipeline saw it: by promotion, or at the latest when imported."""
    return promoted_at(primary, requests) or next((key.created_at for key in keys if key.version == primary), None)


def promoted_at(primary: KeyVersion, requests: Sequence[Request]) -> datetime | None:
    """When a version was promoted to be the primary; None for an imported key."""
    promotions = [
        record.finished_at
        for rotation in requests
        # A rollback makes a key the primary again; the key does not get younger by it.
        if isinstance(rotation, Walk)
        and rotation.action is RequestAction.ROTATE
        and rotation.target == primary
        and (record := rotation.done(Step.PRIMARY_KEY_ROLLOUT)) is not None
    ]
    return max(promotions, default=None)


def _is_open_emergency(request: Request) -> bool:
    return request.type is RotationType.EMERGENCY and not request.is_over


def _a_year_after(at: datetime) -> datetime:
    try:
        return at.replace(year=at.year + 1)
    except ValueError:  # 29 February
        return at.replace(year=at.year + 1, day=28)
