"""An assessor's questions about key management, answered only by the facts of the compliance report.

No answer says that a control of NIST SP 800-53 is met: each says whether one statement is true, by the records that it
names. Questions without records get no answer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from keyrotation_pipeline.reporting.compliance import ComplianceReport, Decided

OFFICERS_REQUIRED = 2


@dataclass(frozen=True, slots=True)
class Record:
    """One record: a sentence about it, and when it was made."""

    about: str
    said: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ObjectiveAnswer:
    """Whether a statement is true, and by which records; always with at least one."""

    holds: bool
    evidence: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Objective:
    """One question.

    Args:
        control: of NIST SP 800-53 revision 5, that it belongs to.
        wanted: the statement that should be true.
        answer: from a report; None: nothing is on record.
    """

    name: str
    control: str
    title: str
    wanted: str
    answer: Callable[[ComplianceReport], ObjectiveAnswer | None]


def _audit(report: ComplianceReport) -> ObjectiveAnswer:
    head = report.audit
    said = f"event {head.seq} has the hash {head.head}; the chain, its anchors, tables and signatures verify"
    return ObjectiveAnswer(True, (Record("audit", said, report.generated_at),))  # noqa: FBT003  else there is no report


def _two_officers(report: ComplianceReport) -> ObjectiveAnswer | None:
    begun = [each for each in report.requests if each.started_at is not None or each.status == "finished"]
    holds = all(len(_good(each)) >= OFFICERS_REQUIRED for each in begun)
    return _answer(holds, (Record(each.id, _signed(each), each.started_at or each.requested_at) for each in begun))


def _good(request: Decided) -> set[str]:
    return {each.fingerprint for each in request.approvals if each.refusal is None}


def _signed(request: Decided) -> str:
    who = "; ".join(
        f"{each.officer} ({each.fingerprint}) at {_when(each.signed_at)}: {each.refusal or 'verified'}"
        for each in request.approvals
    )
    return f"{request.action} {request.id} is {request.status}; signed by {who or 'nobody'}"


def _retired(report: ComplianceReport) -> ObjectiveAnswer | None:
    rotated = [each for each in report.requests if each.action == "rotate" and each.status == "finished"]
    return _answer(
        all(each.retirement.get("old_values") == 0 for each in rotated),
        (Record(each.id, _retirement(each), each.finished_at or each.requested_at) for each in rotated),
    )


def _retirement(request: Decided) -> str:
    said = request.retirement
    if not said:
        return f"rotation {request.id} of {request.source} retired no key"
    return (
        f"rotation {request.id} of {request.source} to {request.target}: {said.get('old_values')} old value(s) of "
        f"{said.get('values')} counted at {said.get('proven_at')}; the database refuses "
        f"{', '.join(map(str, said.get('fenced_against') or ())) or 'no version'}; not searched: "
        f"{'; '.join(map(str, said.get('not_searched') or ())) or 'nothing is named'}"
    )


def _in_time(report: ComplianceReport) -> ObjectiveAnswer | None:
    due = report.policy.next_rotation_due
    active = [key for key in report.keys if key.state == "active"]
    if due is None or not active:
        return None
    said = f"{active[0].version} ({active[0].fingerprint}) is to be replaced by {_when(due)}: {report.policy.rule}"
    return ObjectiveAnswer(report.generated_at <= due, (Record(active[0].version, said, report.generated_at),))


def _backup(report: ComplianceReport) -> ObjectiveAnswer | None:
    if not report.backups:
        return None
    last = report.backups[-1]
    said = (
        f"{last.manifest or 'no manifest'}: keys {', '.join(last.keys) or 'none'}, "
        f"{'with' if last.has_dump else 'without'} a dump of the database, in {', '.join(last.places) or 'no place'}; "
        f"{'; '.join(last.failures) or 'complete'}"
    )
    return ObjectiveAnswer(last.has_dump and not last.failures, (Record(last.manifest or "backup", said, last.at),))


def _recovery(report: ComplianceReport) -> ObjectiveAnswer | None:
    if not report.recovery_tests:
        return None
    last = report.recovery_tests[-1]
    said = f"recovery test from {last.place}: {last.failure or 'passed'}"
    within = True
    for name, seconds, allowed in (
        ("RTO", last.rto_seconds, last.rto_allowed_seconds),
        ("RPO", last.rpo_seconds, last.rpo_allowed_seconds),
    ):
        if seconds is not None and allowed is not None:
            said += f"; {name} {seconds:,.0f} s of {allowed:,.0f} s allowed"
            within = within and seconds <= allowed
    return ObjectiveAnswer(last.failure is None and within, (Record("recovery test", said, last.at),))


def _incidents(report: ComplianceReport) -> ObjectiveAnswer | None:
    return _answer(
        all(each.closed_at is not None for each in report.incidents),
        (
            Record(each.id, f"{each.id} ({each.type}) is {each.status}; {'; '.join(each.breach)}", each.discovered_at)
            for each in report.incidents
        ),
    )


def _stamped(report: ComplianceReport) -> ObjectiveAnswer | None:
    return _answer(
        all(each.refusal is None for each in report.timestamps),
        (
            Record(
                f"time stamp of event {each.seq}",
                f"{each.authority} saw event {each.seq} ({each.head}) at {_when(each.stamped_at)}, which is recorded "
                f"for {_when(each.recorded_at)}: {each.refusal or 'verified'}",
                each.stamped_at,
            )
            for each in report.timestamps
        ),
    )


def _answer(holds: bool, evidence: Iterator[Record]) -> ObjectiveAnswer | None:  # noqa: FBT001
    found = tuple(evidence)
    return ObjectiveAnswer(holds, found) if found else None


def _when(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


OBJECTIVES = (
    Objective("audit-verified", "au-9", "The audit is unchanged",
              "The audit chain verifies from its first event to its last, against every anchor that is kept.", _audit),
    Objective("audit-time-stamped", "au-8", "An authority outside has seen the audit",
              "Every time stamp of the audit verifies with the certificates that are configured.", _stamped),
    Objective("two-officers", "ac-3.2", "Two people agreed",
              "Every request that began carries good signatures of two different officers over its exact text.",
              _two_officers),
    Objective("old-keys-retired", "sc-12", "Replaced keys are out of use",
              "Every finished rotation found no value under the old key in the declared columns when it retired it.",
              _retired),
    Objective("cryptoperiod", "sc-12", "The key in use is within its cryptoperiod",
              "The active key's next rotation was not overdue at the time of the newest event.", _in_time),
    Objective("backup-complete", "cp-9", "The newest backup is complete",
              "The newest backup holds the keys and the database, in every place.", _backup),
    Objective("recovery-tested", "cp-4", "The newest recovery test passed",
              "The newest recovery test passed, within the objectives for time and data.", _recovery),
    Objective("incidents-closed", "ir-4", "Incidents are dealt with",
              "Every incident on record is closed.", _incidents),
)  # fmt: skip
