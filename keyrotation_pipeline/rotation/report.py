"""Reports a finished rotation: the row of `key_rotation_audit`, the summary, and the post-mortem of a rollback."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.audit.verify import verify_audit
from keyrotation_pipeline.model.audit import AuditHead, counted, utc_minute
from keyrotation_pipeline.model.breach import Deadline, Rate, ResponseStage, carried_by, deadlines, rate_needed
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.model.keys import KeyMade
from keyrotation_pipeline.model.progress import Report, Rewritten
from keyrotation_pipeline.model.proof import Proven, records_reencrypted
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.model.request_events import Blocked
from keyrotation_pipeline.model.requests import WALK, Request, Step, Walk
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import authorised_by
from keyrotation_pipeline.requests.roster import roster_of
from keyrotation_pipeline.requests.takeover import lineage
from keyrotation_pipeline.rotation.keys import record_of


def complete_rotation_audit(pipeline: Pipeline, rotation: Walk, report: Report) -> Mapping[str, Any]:  # noqa: ARG001
    """Verifies the chain, then completes the row of the source procedure's `key_rotation_audit`.

    Raises:
        AuditError: the chain does not verify.
    """
    head = verify_audit(pipeline.ledger)
    records, completed_at = records_reencrypted(rotation), pipeline.clock.now()
    initiated_by = authorised_by(pipeline, rotation)
    pipeline.ledger.write_rotation_audit(rotation, initiated_by, records, completed_at)
    return {
        "old_key_version": str(rotation.source),
        "new_key_version": str(rotation.target),
        "rotation_type": str(rotation.type),
        "initiated_by": initiated_by,
        "records_reencrypted": records,
        "completion_date": completed_at.isoformat(),
        "audit": _head_facts(head),
    }


def report_compliance(pipeline: Pipeline, rotation: Walk, report: Report) -> Mapping[str, Any]:  # noqa: ARG001
    """Summarises the facts of a rotation for an auditor, with the audit's head as anchor.

    Raises:
        AuditError: the chain does not verify.
    """
    head = verify_audit(pipeline.ledger)
    target = record_of(pipeline.ledger, rotation.target)
    return {
        "request": rotation.id,
        "type": str(rotation.type),
        "reason": rotation.reason,
        "incident": rotation.incident,
        "database": str(pipeline.environment.identity()),
        "from": {"version": str(rotation.source), "fingerprint": rotation.source_fingerprint},
        "to": {"version": str(rotation.target), "fingerprint": None if target is None else target.fingerprint},
        "requested_by": rotation.requested_by,
        "requested_at": rotation.requested_at.isoformat(),
        "approvals": [
            {"officer": signature.officer, "signed_at": signature.signed_at.isoformat()}
            for signature in pipeline.ledger.signatures(rotation.id)
        ],
        "steps": {
            str(record.step): record.finished_at.isoformat() for record in rotation.steps if record.table is None
        },
        "records_reencrypted": records_reencrypted(rotation),
        "proof": _facts_of(rotation, Step.ZERO_OLD_ROWS_PROOF),
        "retirement": _facts_of(rotation, Step.RETIRED_KEY),
        "audit": _head_facts(head),
    }


def _facts_of(rotation: Walk, step: Step) -> Mapping[str, Any]:
    record = rotation.done(step)
    return record.facts if record is not None else {}


def _head_facts(head: AuditHead) -> Mapping[str, Any]:
    return {"seq": head.seq, "hash": head.hash}


_FOR_PEOPLE = "[to be agreed on by the officers]"


def post_mortem(pipeline: Pipeline, rotation: Walk) -> str:
    """The post-mortem text, with its last heading left for people to complete.

    Args:
        rotation: a rollback whose rows are proven.

    Source: the source procedure, section 6.2, step 4.
    """
    undone = _undone(pipeline, rotation)
    actions = "\n".join(f"{number}. {line}" for number, line in enumerate(_actions(rotation, undone), 1))
    return (
        "ROLLBACK POST-MORTEM\n\n"
        f"Date: {utc_minute(pipeline.clock.now())}\n"
        f"Reason for rollback: {rotation.reason}\n\n"
        f"What went wrong:\n{_what_went_wrong(pipeline.ledger, undone)}\n\n"
        f"Data loss:\n{_data_loss(rotation)}\n\n"
        f"Recovery actions:\n{actions}\n\n"
        f"Prevention measures:\n1. {_FOR_PEOPLE}\n"
    )


def _undone(pipeline: Pipeline, rotation: Walk) -> Walk:
    """The rotation that is undone; for a continuation, found through the rollback that it took over."""
    (*_, first) = lineage(pipeline, rotation)
    return first if first.supersedes is None else pipeline.ledger.walk(first.supersedes)


def _what_went_wrong(ledger: Ledger, undone: Walk) -> str:
    failures = [blocked.sentence for blocked in recorded(ledger, Blocked, undone.id)]
    reached = [step for step in WALK if undone.done(step) is not None]
    last = f"its last finished step was {reached[-1]}" if reached else "none of its steps was finished"
    ended = "was finished" if WALK[-1] in reached else f"was abandoned; {last}"
    begun = f"Rotation {undone.id} ({undone.source} to {undone.target}) {ended}."
    if not failures and undone.blocked_by is None:
        return f"{begun} Nothing had blocked it."
    return f"{begun} What blocked it last: {undone.blocked_by or failures[-1]}."


def _data_loss(rotation: Walk) -> str:
    if (record := rotation.done(Step.ZERO_OLD_ROWS_PROOF)) is None:
        return "None: rows were re-encrypted, not restored, so that what was written meanwhile is kept."
    proof = read(Proven, record.facts)
    return (
        "None: rows were re-encrypted, not restored, so that what was written meanwhile is kept. "
        f"{counted(proof.values_decrypted, 'value')} decrypted, {proof.old_values} left under "
        f"{', '.join(map(str, proof.retired))}, none in quarantine."
    )


def _actions(rotation: Walk, undone: Walk) -> Iterator[str]:
    if undone.done(WALK[-1]) is None:
        yield f"Stopped rotation {undone.id}"
    key = rotation.done(Step.KEY_VERSION)
    archived = key is not None and read(KeyMade, key.facts).from_archive
    where = "Brought back from the archive" if archived else "Found in the key store"
    yield f"{where}: {rotation.target}"
    for step, message in (
        (Step.PRIMARY_KEY_ROLLOUT, f"Made {rotation.target} the primary again, once every instance read it"),
        (Step.ROWS, f"Re-encrypted {rotation.source} to {rotation.target}"),
        (Step.ZERO_OLD_ROWS_PROOF, f"Proved that nothing is left under {rotation.source} where it was searched"),
        (Step.ARCHIVED_KEY, f"Withdrew and archived {rotation.source}, whose number is not used again"),
    ):
        if (record := rotation.done(step)) is not None:
            rows = f", {counted(read(Rewritten, record.facts).rows, 'row')}" if step is Step.ROWS else ""
            yield f"{message}{rows} ({utc_minute(record.finished_at)})"


def clock_of(pipeline: Pipeline, incident: Incident, requests: Sequence[Request]) -> tuple[Deadline, ...]:
    """Every stage of an incident, and when it was reached."""
    carrier = carried_by(incident, requests)
    return deadlines(incident, requests, None if carrier is None else _signed_at(pipeline, carrier))


def rate_of(pipeline: Pipeline, incident: Incident, requests: Sequence[Request], now: datetime) -> Rate | None:
    """The rate needed against the rate measured, while rows are re-encrypted; None before and after."""
    carrier = carried_by(incident, requests)
    if not isinstance(carrier, Walk) or carrier.is_over or carrier.done(Step.ROWS) is not None:
        return None
    promoted = carrier.done(Step.PRIMARY_KEY_ROLLOUT)
    if promoted is None:
        return None
    walked = pipeline.ledger.shard_progress(carrier.id)
    done, total = sum(each.done_pages for each in walked), sum(each.total_pages for each in walked)
    rows = sum(each.rows for each in walked)
    counted = sum(count.rows for count in pipeline.ledger.counts(pipeline.tables))
    left = counted * (1 - done / total) if total else counted
    since = max(promoted.finished_at, carrier.started_at or promoted.finished_at)
    seconds = max((now - since).total_seconds(), 1.0)
    deadline = next(each for each in clock_of(pipeline, incident, requests) if each.stage is ResponseStage.REENCRYPTED)
    needed = rate_needed(left, deadline, now)
    return None if needed is None else Rate(needed, rows / seconds)


def _signed_at(pipeline: Pipeline, carrier: Request) -> datetime | None:
    """When the last required signature was made."""
    required = roster_of(pipeline, carrier).required
    signed = sorted(each.signed_at for each in pipeline.ledger.signatures(carrier.id))
    return signed[required - 1] if len(signed) >= required else None
