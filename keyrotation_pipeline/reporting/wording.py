"""Moments, durations, numbers and lists in the sentences of the report."""

from collections.abc import Iterable
from datetime import UTC, datetime


def listed(names: Iterable[str]) -> str:
    """Names in a sentence."""
    return ", ".join(names) or "none"


def when(at: datetime) -> str:
    """A moment in a sentence."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def lasting(seconds: float | None, otherwise: str = "not measured") -> str:
    """A duration in a sentence: ``30 s``, ``90 min``, ``4 h``, ``25 h 30 min``, ``3 days``."""
    if seconds is None:
        return otherwise
    whole = round(seconds)
    for size, name, least in ((86_400, "days", 3), (3600, "h", 2), (60, "min", 2)):
        if whole >= least * size:
            rest = whole % size
            smaller = {86_400: (3600, "h"), 3600: (60, "min"), 60: (1, "s")}[size]
            return f"{whole // size} {name}" + (f" {rest // smaller[0]} {smaller[1]}" if rest >= smaller[0] else "")
    return f"{whole} s"
