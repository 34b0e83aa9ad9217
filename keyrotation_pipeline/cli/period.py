"""`--from` and `--to`: from when to when a report tells."""

import re
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from keyrotation_pipeline.assurance.compliance import Period
from keyrotation_pipeline.errors import KeyRotationError

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def period_of(since: str | None, until: str | None, time_zone: str) -> Period | None:
    """The period that was asked for; None: none was, so all of it.

    Args:
        since, until: days, both included, or moments; without offset in `time_zone`.

    Raises:
        KeyRotationError: one is no day or moment, or the end is not after the beginning.
    """
    if since is None and until is None:
        return None
    zone = ZoneInfo(time_zone)
    begin = None if since is None else _moment("--from", since, zone)
    end = None if until is None else _moment("--to", until, zone, days=1)
    if begin is not None and end is not None and begin >= end:
        raise KeyRotationError(f"--to {until} is not after --from {since}; give a later one")
    return Period(begin, end)


def _moment(option: str, text: str, zone: ZoneInfo, days: int = 0) -> datetime:
    try:
        at = datetime.fromisoformat(text.strip())
        if _DAY.fullmatch(text.strip()):
            # By the calendar: a day can have 23 hours.
            return datetime.combine(at.date() + timedelta(days=days), time(), tzinfo=zone)
        return at if at.tzinfo is not None else at.replace(tzinfo=zone)
    except (ValueError, OverflowError):
        raise KeyRotationError(f"{option} is no day or moment; write it as 2026-01-31 or 2026-01-31T09:30") from None
