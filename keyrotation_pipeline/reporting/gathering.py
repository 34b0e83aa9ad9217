"""Gathers what a report is made from: the audit as a whole, verified."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from keyrotation_pipeline.audit.events import entry_of
from keyrotation_pipeline.audit.history import HistoryEntry, LedgerState, whole_history
from keyrotation_pipeline.audit.verify import verify_chain, verify_everything
from keyrotation_pipeline.errors import AuditError, BackupError
from keyrotation_pipeline.model.audit import AuditEvent, AuditHead, utc_minute
from keyrotation_pipeline.model.backup_events import BackupsExamined
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.reporting.compliance import ComplianceReport, Parameters, Period, Stated
from keyrotation_pipeline.reporting.from_audit import compliance_report

_NOTHING = Stated()


@dataclass(frozen=True, slots=True)
class ReportEvidence:
    """The report, the whole audit, and the part of it that the report was made of, judged."""

    report: ComplianceReport
    events: tuple[AuditEvent, ...]
    entries: Sequence[HistoryEntry]
    state: LedgerState


def gather(pipeline: Pipeline, period: Period | None = None, stated: Stated = _NOTHING) -> ReportEvidence:
    """Verifies the audit as a whole, looks for the backups, then makes the report from the audit.

    Args:
        period: None: of all of it.
        stated: what the configuration says.

    Raises:
        AuditError: the audit does not verify, so that nothing can be reported from it; or it is empty in that period.
    """
    verified = verify_everything(pipeline)
    if period is None or period.until is None or period.until > pipeline.clock.now():
        examine_backups(pipeline)
    events = _events_after(pipeline.ledger, verified)
    verifiers = pipeline.signatures.verify_as_of, pipeline.ledger.verify_event
    entries, state = whole_history(_up_to(period, events), *verifiers)
    parameters = Parameters(period, timestamps_verified=pipeline.timestamps is not None, stated=stated)
    report = compliance_report((entries, state), pipeline.clock.now(), parameters)
    return ReportEvidence(report, events, entries, state)


def verified_events(pipeline: Pipeline) -> tuple[AuditEvent, ...]:
    """The whole audit, verified with its anchors, tables and signatures; raises as `gather`."""
    return _events_after(pipeline.ledger, verify_everything(pipeline))


def _events_after(ledger: Ledger, verified: AuditHead) -> tuple[AuditEvent, ...]:
    with ledger.snapshot():
        events = tuple(ledger.events())
    verify_chain(events, [verified])  # what others appended meanwhile follows what was verified
    if not events:
        raise AuditError("the audit is empty, so there is nothing to report; run `keyrotation init`")
    return events


def examine_backups(pipeline: Pipeline) -> None:
    """Looks for the newest backup in every place, and records what is there; a place may be silent."""
    try:
        found = pipeline.vault.status(pipeline.ledger.keys())
    except BackupError as error:
        pipeline.ledger.append(BackupsExamined(None, (), (str(error),)))
    else:
        pipeline.ledger.append(BackupsExamined(found.manifest, found.places, found.problems))


def _up_to(period: Period | None, events: Sequence[AuditEvent]) -> Sequence[AuditEvent]:
    if period is None or period.until is None:
        return events
    until = period.until
    if not (before := list(takewhile(lambda each: entry_of(each).at < until, events))):
        raise AuditError(f"the audit begins on {utc_minute(entry_of(events[0]).at)}; give a later --to")
    return before
