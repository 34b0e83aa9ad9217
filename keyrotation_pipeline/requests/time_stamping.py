"""Has the audit's head time-stamped by an outside authority, so that a later rewrite of the audit is detected.

It blocks nothing: an authority that does not answer is recorded, shown by `status`, and asked again.
"""

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyrotation_pipeline.audit.events import AuditEntry, entries
from keyrotation_pipeline.errors import AtWorkError, TimestampError
from keyrotation_pipeline.model.audit import AuditEvent, EventKind, stamped_bytes, utc_minute
from keyrotation_pipeline.model.backup_events import AuditTimestamped, TimestampFailed
from keyrotation_pipeline.model.request_events import StatusChanged
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.ports.timestamps import TimestampAuthority

LOCK = "time stamp"
# A missing time stamp, because a run was killed before making it, is reported after this.
LATE_AFTER = timedelta(minutes=10)
_OWN = frozenset({EventKind.AUDIT_TIMESTAMPED, EventKind.TIMESTAMP_FAILED})


@dataclass(frozen=True, slots=True)
class Stamps:
    """The time stamps that the audit records.

    Args:
        seq: the newest head that was stamped; 0: none.
        failing: since when the authority fails, and its error; None: it does not.
    """

    seq: int
    failing: tuple[datetime, str] | None


def stamp(pipeline: Pipeline) -> str | None:
    """Has the newest event time-stamped, unless nothing has happened since the last time; returns what failed."""
    if (authority := pipeline.timestamps) is None or authority.name is None:
        return None
    try:
        with pipeline.ledger.lock(LOCK):
            return _stamp(pipeline.ledger, authority, authority.name)
    except AtWorkError:
        return None  # another process is doing it


def stamp_if_due(pipeline: Pipeline) -> str | None:
    """Like `stamp`, but only if a request has ended since the last time stamp."""
    return stamp(pipeline) if _ended_since(pipeline.ledger, stamps(pipeline.ledger).seq) else None


def unstamped(pipeline: Pipeline, now: datetime) -> Iterator[str]:
    """A sentence if the end of a request is not time-stamped though it should be."""
    if pipeline.timestamps is None or pipeline.timestamps.name is None:
        return
    known = stamps(pipeline.ledger)
    ended = _ended_since(pipeline.ledger, known.seq)
    again = "Dagster asks it again every minute, and so does `keyrotation report`"
    if known.failing is not None:
        since, reason = known.failing
        yield f"the audit has had no time stamps since {utc_minute(since)}: {reason}; {again}"
    elif ended is not None and now - ended.at > LATE_AFTER:
        yield (
            f"request {ended.request} ended on {utc_minute(ended.at)}, but the audit has no time stamp since; "
            "run `keyrotation report`"
        )


def stamps(ledger: Ledger) -> Stamps:
    """Reads the time stamps from the audit."""
    seq, failing = 0, None
    for entry in entries(ledger, *_OWN):
        match entry.fact():
            case AuditTimestamped() as stamped:
                seq, failing = stamped.seq, None
            case TimestampFailed(reason=reason):
                failing = failing or (entry.at, reason)
    return Stamps(seq, failing)


def _stamp(ledger: Ledger, authority: TimestampAuthority, name: str) -> str | None:
    known = stamps(ledger)
    if (newest := _newest_since(ledger, known.seq)) is None:
        return None
    try:
        done = authority.stamp(stamped_bytes(newest.previous, newest.body))
    except TimestampError as error:
        if known.failing is None:
            ledger.append(TimestampFailed(name, str(error)))
        return str(error)
    trusted = tuple(b64encode(each).decode() for each in done.trusted)
    response = b64encode(done.response).decode()
    ledger.append(AuditTimestamped(newest.seq, newest.hash, done.at, name, response, trusted))
    return None


def _newest_since(ledger: Ledger, seq: int) -> AuditEvent | None:
    """The newest event, if anything but time stamping has happened after `seq`."""
    if all(event.kind in _OWN for event in ledger.events(after_seq=seq)):
        return None
    return next(ledger.events(after_seq=ledger.head().seq - 1), None)


def _ended_since(ledger: Ledger, seq: int) -> AuditEntry | None:
    """The first end of a request after `seq`."""
    for entry in entries(ledger, EventKind.STATUS_CHANGED, after_seq=seq):
        if isinstance(fact := entry.fact(), StatusChanged) and fact.after is RequestStatus.FINISHED:
            return entry
    return None
