"""Writes the announcement of a planned rotation, and of its cancellation.

Its wording is that of the procedure, its dates are those that were signed, and durations are given with their source.
Only what officers have signed is announced: rows and events in the database are not enough.

Source: the source procedure, section 3.1, step 5.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from keyrotation_pipeline.audit.incidents import alert_deliveries
from keyrotation_pipeline.backups.rehearsal import last_rehearsal
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.audit import utc_minute
from keyrotation_pipeline.model.incidents import Contact, ContactRole
from keyrotation_pipeline.model.requests import (
    Announcement,
    RequestStatus,
    RotationType,
    Walk,
    announced_key,
)
from keyrotation_pipeline.monitoring.progress import as_long_as_last_time
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import require_authorised
from keyrotation_pipeline.requests.roster import pinned_roster, roster_of
from keyrotation_pipeline.templates import render_text

AHEAD = timedelta(days=7)
# Preferred contacts, in this order.
_ASKED = (
    ContactRole.SECURITY_OFFICER,
    ContactRole.DEVOPS_LEAD,
    ContactRole.DATABASE_ADMINISTRATOR,
    ContactRole.ON_CALL,
    ContactRole.COMPLIANCE_OFFICER,
    ContactRole.OFFICER,
)
_MINUTES_SHOWN_UP_TO = 120


def announcements(pipeline: Pipeline, contacts: Sequence[Contact], time_zone: str) -> Iterator[Announcement]:
    """Everything to announce now, delivered before or not; and cancellations of what was announced."""
    known, now = {alert for alert, _ in alert_deliveries(pipeline.ledger).alerts}, pipeline.clock.now()
    for walk in pipeline.ledger.requests():
        if not isinstance(walk, Walk) or walk.type is not RotationType.ROUTINE:
            continue
        # A recorded delivery proves nothing: whoever can append events can append that, too.
        if _is_near(walk, now) and _may_start(pipeline, walk):
            yield announcement_of(pipeline, walk, contacts, time_zone)
        if announced_key(walk.id) in known and _was_cancelled_lately(walk, now) and _was_signed(pipeline, walk):
            yield cancellation_of(pipeline, walk, contacts, time_zone)


def announcement_of(
    pipeline: Pipeline, walk: Walk, contacts: Sequence[Contact], time_zone: str = "UTC"
) -> Announcement:
    """The announcement of a rotation, as it is now.

    Args:
        time_zone: of its dates, which are given in UTC too.
    """
    first, last = "Deploy dual-key application update", "Validation and old key retirement"
    if _is_rollback(walk):
        first, last = f"Make {walk.target} the primary again", f"Validation and retirement of {walk.source}"
    text = render_text(
        "announcement.txt.j2",
        what=_what(walk),
        start=_start(walk, time_zone),
        first=first,
        last=last,
        finish_by=_local_time(walk.finish_by, time_zone),
        duration=_duration(pipeline, walk),
        rollout=pipeline.rollout.mode.rule(walk.source, walk.target, pipeline.rollout.workloads),
        reason=walk.reason,
        **_common(pipeline, walk, contacts, time_zone),
    )
    return Announcement(walk.id, _subject(walk, time_zone), text)


def cancellation_of(pipeline: Pipeline, walk: Walk, contacts: Sequence[Contact], time_zone: str) -> Announcement:
    """The message that withdraws an announcement."""
    followers = [each for each in pipeline.ledger.requests() if each.supersedes == walk.id and each.started_at]
    instead = "".join(f" The {each.type} {each.action} {each.id} takes its place." for each in followers)
    begun = " after it had begun" if walk.started_at is not None else ""
    at = _local_time(walk.finished_at or pipeline.clock.now(), time_zone)
    text = render_text(
        "cancellation.txt.j2",
        what=_what(walk).capitalize(),
        at=at,
        begun=begun,
        instead=instead,
        **_common(pipeline, walk, contacts, time_zone),
    )
    return Announcement(walk.id, f"Cancelled: {_subject(walk, time_zone)}", text, cancels=True)


def _common(pipeline: Pipeline, walk: Walk, contacts: Sequence[Contact], time_zone: str) -> Mapping[str, str]:
    """What an announcement and its cancellation both say."""
    return {
        "when": _when(walk, time_zone),
        "database": pipeline.environment.identity().name,
        "source": str(walk.source),
        "target": str(walk.target),
        "request": walk.id,
        "contact": _contact(pipeline, contacts),
    }


def _is_near(walk: Walk, now: datetime) -> bool:
    return not walk.is_over and (walk.not_before is None or now >= walk.not_before - AHEAD)


def _was_cancelled_lately(walk: Walk, now: datetime) -> bool:
    return walk.status is RequestStatus.CANCELLED and walk.finished_at is not None and now - walk.finished_at < AHEAD


def _may_start(pipeline: Pipeline, walk: Walk) -> bool:
    """Whether officers have signed the request exactly as it is now."""
    try:
        require_authorised(pipeline, walk, pipeline.keys.read())
    except KeyRotationError:
        return False
    return True


def _was_signed(pipeline: Pipeline, walk: Walk) -> bool:
    try:
        return len(walk.approvals) >= roster_of(pipeline, walk).required
    except KeyRotationError:
        return False


def _what(walk: Walk) -> str:
    return "a rollback of the encryption key" if _is_rollback(walk) else "a routine encryption key rotation"


def _is_rollback(walk: Walk) -> bool:
    return walk.action.goes_back


def _subject(walk: Walk, time_zone: str) -> str:
    what = "Encryption Key Rollback" if _is_rollback(walk) else "Encryption Key Rotation"
    day = _day(walk.not_before, time_zone) if walk.not_before is not None else f"by {_day(walk.start_by, time_zone)}"
    return f"Scheduled {what} - {day}"


def _when(walk: Walk, time_zone: str) -> str:
    if walk.not_before is not None:
        return f"on {_day(walk.not_before, time_zone)}"
    return f"by {_day(walk.start_by, time_zone)}"


def _start(walk: Walk, time_zone: str) -> str:
    if walk.started_at is not None:
        return f"since {_local_time(walk.started_at, time_zone)}"
    if walk.not_before is not None:
        return f"{_local_time(walk.not_before, time_zone)}, not earlier"
    return f"at any time from now on, at the latest {_local_time(walk.start_by, time_zone)}"


def _day(at: datetime, time_zone: str) -> str:
    return f"{at.astimezone(ZoneInfo(time_zone)):%Y-%m-%d}"


def _local_time(at: datetime, time_zone: str) -> str:
    """In the configured time zone, and in UTC."""
    utc = utc_minute(at)
    return utc if time_zone == "UTC" else f"{at.astimezone(ZoneInfo(time_zone)):%Y-%m-%d %H:%M} {time_zone} ({utc})"


def _duration(pipeline: Pipeline, walk: Walk) -> str:
    """How long it takes, and the source of that estimate."""
    rehearsal = last_rehearsal(pipeline.ledger, walk.source, pipeline.members)
    whole = rehearsal if rehearsal is not None and not rehearsal.without else None
    if whole is not None and (seconds := whole.rehearsed.total_seconds) is not None:
        return f"about {_about(seconds)} in addition to the rollouts, by the rehearsal of {whole.at:%Y-%m-%d}"
    if (seconds := as_long_as_last_time(pipeline, walk)) is not None:
        return f"about {_about(seconds)} from the first row on, by the last rotation, for as many values as now"
    return f"not known: none was rehearsed or finished here (`keyrotation rehearse {walk.id}` measures it)"


def _about(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes <= _MINUTES_SHOWN_UP_TO else f"{seconds / 3600:.1f} h"


def _contact(pipeline: Pipeline, contacts: Sequence[Contact]) -> str:
    """The point of contact, with an address if one is known."""
    ordered = sorted(contacts, key=lambda each: (each.email is None, _ASKED.index(each.role)))
    for each in ordered:
        return ", ".join(part for part in (each.name, each.email or each.phone) if part)
    officers = ", ".join(each.name for each in pinned_roster(pipeline).officers)
    return f"{officers} (no address is configured; name one in [[contacts]])"
