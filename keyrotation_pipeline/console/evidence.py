"""What a finished rotation leaves: the facts of its proof, what a later reading says, and the reports written since."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.audit.history import HistoryEntry, history
from keyrotation_pipeline.audit.retirements import Retirement, retirement_of
from keyrotation_pipeline.model.audit import EventKind, utc_minute
from keyrotation_pipeline.model.backup_events import ReportWritten
from keyrotation_pipeline.ports.ledger import Ledger

_ABOUT_RETIREMENT = (
    EventKind.KEY_RETIRED,
    EventKind.KEY_STATE_CHANGED,
    EventKind.KEY_RESTORE_INTENDED,
    EventKind.COUNTED,
    EventKind.VALUES_DECRYPTED,
    EventKind.UNDECLARED_COLUMNS_SEARCHED,
)
MOST_REPORTS = 6


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """A report of which the audit has the hash.

    Args:
        files: SHA-256 in hex, by name.
    """

    seq: int
    at: datetime
    form: str
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the audit says of one rotation that retired a key.

    Args:
        contradictions: what somebody did, or a reading found, since: sentences.
        reports: the newest first, of those that were written since.
    """

    retirement: Retirement
    contradictions: tuple[str, ...]
    reports: tuple[WrittenReport, ...]


def evidence_of(ledger: Ledger, rotation: str) -> Evidence | None:
    """The evidence of a rotation; None: it has retired no key."""
    first = next((each.seq for each in history(ledger, EventKind.KEY_RETIRED) if each.request == rotation), None)
    if first is None:
        return None
    retired = retirement_of(history(ledger, *_ABOUT_RETIREMENT, after_seq=first - 1), rotation)
    if retired is None:
        return None
    written = history(ledger, EventKind.REPORT_WRITTEN, after_seq=retired.entry.seq)
    return Evidence(retired, tuple(_contradictions(retired)), tuple(_reports(written))[::-1][:MOST_REPORTS])


def _contradictions(retired: Retirement) -> Iterator[str]:
    if retired.revived:
        yield f"{', '.join(retired.revived)} was given to applications again since"
    for each in retired.contradicted_by:
        yield f"{each.found} (event {each.entry.seq}, {utc_minute(each.entry.at)})"
    if retired.unread is not None:
        yield retired.unread


def _reports(entries: Sequence[HistoryEntry]) -> Iterator[WrittenReport]:
    for each in entries:
        if each.fault is None and isinstance(each.fact, ReportWritten):
            yield WrittenReport(each.seq, each.at, each.fact.format, dict(each.fact.files))
