"""Report a finished rotation: the row of the seed's `key_rotation_audit`, and the facts in one summary."""

from collections.abc import Mapping
from typing import Any

from keyrotation_pipeline.audit.chain import verify_audit
from keyrotation_pipeline.model.audit import AuditHead, read
from keyrotation_pipeline.model.progress import Report, Rewritten
from keyrotation_pipeline.model.proof import Proven
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import authorised_by


def complete_rotation_audit(pipeline: Pipeline, rotation: Walk, report: Report) -> Mapping[str, Any]:  # noqa: ARG001
    """Verify the chain, then complete the row of the seed's `key_rotation_audit`.

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
    """The facts of a rotation in one summary: what an auditor asks for, with the audit's head as its anchor.

    Raises:
        AuditError: the chain does not verify.
    """
    head = verify_audit(pipeline.ledger)
    registered = pipeline.ledger.keys()
    fingerprints = {record.version: record.fingerprint for record in registered}
    return {
        "request": rotation.id,
        "type": str(rotation.type),
        "reason": rotation.reason,
        "incident": rotation.incident,
        "database": str(pipeline.database.identity()),
        "from": {"version": str(rotation.source), "fingerprint": rotation.source_fingerprint},
        "to": {"version": str(rotation.target), "fingerprint": fingerprints.get(rotation.target)},
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


def records_reencrypted(rotation: Walk) -> int:
    """Rows that the walk and the sweeps after it rewrote; a row that both rewrote counts twice."""
    walked, proof = rotation.done(Step.ROWS), rotation.done(Step.ZERO_OLD_ROWS_PROOF)
    rows = read(Rewritten, walked.facts).rows if walked is not None else 0
    return rows + (sum(read(Proven, proof.facts).swept_rows.values()) if proof is not None else 0)


def _facts_of(rotation: Walk, step: Step) -> Mapping[str, Any]:
    record = rotation.done(step)
    return record.facts if record is not None else {}


def _head_facts(head: AuditHead) -> Mapping[str, Any]:
    return {"seq": head.seq, "hash": head.hash}
