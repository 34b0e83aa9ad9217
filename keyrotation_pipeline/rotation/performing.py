"""Perform one action of the walk: the same for the command line, for Dagster and for tests."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.errors import BlockedError, KeyRotationError, OutOfOrderError
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.request import WALK, RequestAction, RequestStatus, Step, StepRecord, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import opening, superseding
from keyrotation_pipeline.requests.conductor import Action, Decision, decide
from keyrotation_pipeline.rotation import archive, deploy, keys, prove, reencrypt, reporting, retire, rollback

StepFunction = Callable[[Pipeline, Walk, Report], Mapping[str, Any]]

STEPS: Mapping[Step, StepFunction] = {
    Step.KEY_VERSION: keys.create_key_version,
    Step.DUAL_KEY_ROLLOUT: deploy.roll_out_dual_key,
    Step.PRIMARY_KEY_ROLLOUT: deploy.roll_out_primary_key,
    Step.ROWS: reencrypt.close_rows,
    Step.ZERO_OLD_ROWS_PROOF: prove.prove_zero_old_rows,
    Step.RETIRED_KEY: retire.retire_key,
    Step.ARCHIVED_KEY: archive.archive_key,
    Step.KEY_ROTATION_AUDIT: reporting.complete_rotation_audit,
    Step.COMPLIANCE_REPORT: reporting.report_compliance,
}

# The way back is the same walk with source and target exchanged, but for how it begins and what it reports.
STEPS_BACK: Mapping[Step, StepFunction] = {
    **STEPS,
    Step.KEY_VERSION: rollback.bring_back_key,
    Step.DUAL_KEY_ROLLOUT: rollback.roll_out_old_key,
    Step.PRIMARY_KEY_ROLLOUT: rollback.return_primary,
    Step.COMPLIANCE_REPORT: rollback.report_rollback,
}


def next_decision(pipeline: Pipeline, rotation: Walk) -> Decision:
    """The conductor's decision for a rotation as it stands now."""
    roster = opening.pinned_roster(pipeline)
    return decide(rotation, roster.required, pipeline.tables, pipeline.shards, pipeline.clock.now())


def perform(pipeline: Pipeline, request_id: str, action: Action, report: Report) -> StepRecord:
    """Run one action to its end and record it; an action that is already done is given back as recorded.

    Raises:
        OutOfOrderError: the rotation is not at this action; nothing was done.
        KeyRotationError: the step's own refusal, which is also recorded as what blocks the rotation.
    """
    table, index = (str(action.shard.table.name), action.shard.index) if action.shard else (None, None)
    with pipeline.ledger.lock(f"{request_id}/{action}"):
        rotation = pipeline.ledger.walk(request_id)
        if (record := rotation.done(action.step, table, index)) is not None:
            return record
        decision = next_decision(pipeline, rotation)
        if action not in decision.actions:
            raise OutOfOrderError(_out_of_order(rotation, action, decision))
        try:
            require_consistent(pipeline)
            opening.require_authorised(pipeline, rotation)
            if rotation.started_at is None:
                rotation = superseding.begin(pipeline, rotation)
                # A continuation takes finished steps over.
                if (record := rotation.done(action.step, table, index)) is not None:
                    return record
            facts = _run(pipeline, rotation, action, report)
        except KeyRotationError as error:
            pipeline.ledger.block(rotation.id, str(error))
            raise
        record = StepRecord(action.step, table, index, pipeline.clock.now(), facts)
        _record(pipeline, rotation, record)
        pipeline.anchors.keep(pipeline.ledger.head())
        return record


def run(pipeline: Pipeline, request_id: str, report: Report, through: Step | None = None) -> Iterator[StepRecord]:
    """Perform due actions, one after another, until the walk ends, waits, or `through` is done; yields each record.

    Raises:
        BlockedError: nothing is due and the rotation is not finished; the sentence says what it waits for.
    """
    while True:
        rotation = pipeline.ledger.walk(request_id)
        if rotation.status is RequestStatus.FINISHED or (through is not None and rotation.done(through) is not None):
            return
        decision = next_decision(pipeline, rotation)
        if not decision.actions:
            raise BlockedError(decision.waiting_for or f"rotation {rotation.id} has nothing that is due")
        yield perform(pipeline, rotation.id, decision.actions[0], report)


def _run(pipeline: Pipeline, rotation: Walk, action: Action, report: Report) -> Mapping[str, Any]:
    if action.shard is not None:
        return reencrypt.reencrypt_shard(pipeline, rotation, action.shard, report)
    steps = STEPS_BACK if rotation.action == RequestAction.ROLLBACK else STEPS
    return steps[action.step](pipeline, rotation, report)


def _record(pipeline: Pipeline, rotation: Walk, record: StepRecord) -> None:
    with pipeline.ledger.transaction():
        pipeline.ledger.finish_step(rotation.id, record)
        if record.step is WALK[-1]:
            pipeline.ledger.set_status(rotation.id, RequestStatus.FINISHED)


def _out_of_order(rotation: Walk, action: Action, decision: Decision) -> str:
    due = ", ".join(str(each) for each in decision.actions[:3]) or decision.waiting_for
    return f"{action} is not due in rotation {rotation.id}; due is: {due}; run `keyrotation rotate {rotation.id}`"
