"""`--from` and `--to`: from when to when a report tells; and the moment that an option names."""

import re
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.reporting.compliance import Period

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
    begin = None if since is None else moment("--from", since, zone)
    end = None if until is None else moment("--to", until, zone, days=1)
    if begin is not None and end is not None and begin >= end:
        raise KeyRotationError(f"--to {until} is not after --from {since}; give a later one")
    return Period(begin, end)


def moment(option: str, text: str, zone: ZoneInfo, days: int = 0) -> datetime:
    """The moment that an option names, aware.

    Args:
        text: a day, which begins at midnight, or a moment; without offset in `zone`.
        days: added to a day.

    Raises:
        KeyRotationError: it is no day or moment.
    """
    try:
        at = datetime.fromisoformat(text.strip())
        if _DAY.fullmatch(text.strip()):
            # By the calendar: a day can have 23 hours.
            at = datetime.combine(at.date() + timedelta(days=days), time(), tzinfo=zone)
        elif at.tzinfo is None:
            at = at.replace(tzinfo=zone)
        at.astimezone(UTC)  # near the first and the last day there is, it may not be one there
    except (ValueError, OverflowError):
        raise KeyRotationError(f"{option} is no day or moment; write it as 2026-01-31 or 2026-01-31T09:30") from None
    return at


def unambiguous_moment(option: str, text: str, zone: ZoneInfo) -> datetime:
    """The same, of a clock that is not being changed: a time that it shows twice or never needs an offset."""
    at = moment(option, text, zone)
    if at.replace(fold=0).utcoffset() != at.replace(fold=1).utcoffset():
        raise KeyRotationError(
            f"{option} {at:%Y-%m-%dT%H:%M} is shown twice or never by the clocks of {zone.key}, which are changed "
            f"then; write it with an offset, such as {at.isoformat(timespec='minutes')}"
        )
    return at
