"""Runs the tasks of the walk: the same for the command line, for Dagster and for tests."""

from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.errors import (
    AtWorkError,
    AuditError,
    BlockedError,
    DatabaseUnavailableError,
    KeyRotationError,
    KeyStoreError,
    MemberUnavailableError,
    OutOfOrderError,
    PausedError,
    RolloutPendingError,
)
from keyrotation_pipeline.model.pending import PendingCode, PendingReason
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.records import as_json
from keyrotation_pipeline.model.requests import WALK, RequestStatus, Step, StepRecord, Walk
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline, StepFacts
from keyrotation_pipeline.requests import takeover, witnessing
from keyrotation_pipeline.requests.approvals import named_by_incident, require_authorised
from keyrotation_pipeline.requests.conductor import Decision, Task, decide
from keyrotation_pipeline.requests.inventory import require_preflight
from keyrotation_pipeline.requests.roster import claim_store, roster_of
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import reencrypt, rollout
from keyrotation_pipeline.rotation.keys import record_of


def next_decision(situation: Situation, rotation: Walk) -> Decision:
    """The conductor's decision for a rotation's present state.

    A task that only lacks a signature is not due, nor is creating a key that an application might use at once, nor
    anything that leads to a primary which an open incident names, nor what cannot start any more.

    Raises:
        KeyRotationError: the key store or the instances cannot be seen now.
    """
    pipeline = situation.pipeline
    required = roster_of(pipeline, rotation).required
    decision = decide(rotation, required, pipeline.tables, pipeline.shards, pipeline.clock.now())
    reason = next((each for each in _stops(situation, rotation, decision) if each is not None), None)
    return decision if reason is None else Decision((), reason)


def _stops(situation: Situation, rotation: Walk, decision: Decision) -> Iterator[PendingReason | None]:
    """What may stop a rotation besides its own state, the most important first."""
    if decision.tasks:
        yield takeover.emergency_first(situation.pipeline, rotation)
    yield takeover.cannot_start(situation, rotation)
    if not rotation.is_over:
        yield named_by_incident(situation, rotation.target)
        yield takeover.newer_version(situation, rotation)
    if decision.tasks:
        yield rollout.pending_at(situation, rotation, decision.tasks[0].step, to_start=True)


def pending(situation: Situation, rotation: Walk, *, to_start: bool = False) -> PendingReason | None:
    """Why a rotation does not proceed by itself now; None: it does.

    Args:
        to_start: only what makes starting its next step useless.
    """
    try:
        decision = next_decision(situation, rotation)
        if to_start or not decision.tasks:
            return decision.pending
        return rollout.pending_at(situation, rotation, decision.tasks[0].step)
    except KeyRotationError as error:
        if error is not situation.unreachable:
            raise
        return PendingReason.of(PendingCode.UNREACHABLE, "the application's instances", str(error))


def pending_people(rotation: Walk, decision: Decision) -> PendingReason | None:
    """What people must do for a manual request; None: nothing is due, or the conductor does it."""
    tasks = decision.tasks if rotation.manual else ()
    if not tasks:
        return None
    tables = dict.fromkeys(f"{each.step}/{each.shard.table.name}" for each in tasks if each.shard)
    # The asset of the proof also closes the rows.
    step = Step.ZERO_OLD_ROWS_PROOF if tasks[0].step is Step.ROWS else tasks[0].step
    due = ", ".join(tables) or str(step)
    return PendingReason(
        PendingCode.PEOPLE,
        "an operator",
        f"somebody is to materialize {due} (partition {rotation.target}) in Dagster",
        f"do that there, or run `keyrotation rotate {rotation.id}`",
    )


def run_step(pipeline: Pipeline, request_id: str, task: Task, report: Report) -> StepRecord:
    """Runs one task to its end and records it; a task that is already done returns its record.

    Raises:
        OutOfOrderError: the rotation is not at this task; nothing was done.
        KeyRotationError: the step's own refusal, which is also recorded as what blocks the rotation.
    """
    table, index = (str(task.shard.table.name), task.shard.index) if task.shard else (None, None)
    with pipeline.ledger.lock(f"{request_id}/{task}"):
        rotation = pipeline.ledger.walk(request_id)
        if (record := rotation.done(task.step, table, index)) is not None:
            return record
        decision = next_decision(Situation(pipeline), rotation)
        if task not in decision.tasks:
            raise OutOfOrderError(_out_of_order(rotation, task, decision))
        try:
            stored = pipeline.keys.read()
            # There are many shards, and they change no key; the next step checks everything again.
            require_consistent(pipeline, stored, afresh=task.step is not Step.ROWS)
            require_authorised(pipeline, rotation, stored)
            if (made := record_of(pipeline.ledger, rotation.target)) is not None:
                stored.registered(made)  # else instances would be waited for that cannot get it
            if task.step is not Step.ROWS:
                claim_store(pipeline, stored)
            if rotation.started_at is None:
                # A request may be a month old, and its tables may have changed since.
                require_preflight(pipeline.of_walk(rotation), rotation.target)
                rotation = takeover.begin(pipeline, rotation)
                # A continuation takes finished steps over.
                if (record := rotation.done(task.step, table, index)) is not None:
                    return record
            facts = _run(pipeline, rotation, task, report)
        except AuditError:
            raise  # nothing is written to a database that was tampered with; `status` says the same
        except KeyRotationError as error:
            with suppress(DatabaseUnavailableError):  # else its own sentence would hide this one
                _note_end(pipeline.ledger, rotation, error)
            raise
        plain = facts if isinstance(facts, Mapping) else as_json(facts)
        record = StepRecord(task.step, table, index, pipeline.clock.now(), plain)
        done_with_it = reencrypt.done_with(task.shard, record, report) if task.shard else ()
        _record(pipeline.ledger, rotation, record, *done_with_it)
    if record.step is WALK[-1]:
        witnessing.show_outside(pipeline)
    return record


def _note_end(ledger: Ledger, rotation: Walk, error: KeyRotationError) -> None:
    """Records what stopped an attempt; a pause has an event of its own, and leaves nothing that failed."""
    message = None if isinstance(error, PausedError) else str(error)
    ledger.block(rotation.id, message, rollout_pending=isinstance(error, RolloutPendingError))


def run(pipeline: Pipeline, request_id: str, report: Report, through: Step | None = None) -> Iterator[StepRecord]:
    """Runs due tasks, one after another, until the walk ends, waits, or `through` is done; yields each record.

    Rows in a member of a fleet that does not answer keep those in the others from nothing.

    Raises:
        BlockedError: nothing is due and the rotation is not finished; the sentence says what it waits for.
        MemberUnavailableError: a member does not answer, and nothing else is due.
    """
    unavailable: dict[Task, MemberUnavailableError] = {}
    while True:
        rotation = pipeline.ledger.walk(request_id)
        if rotation.status is RequestStatus.FINISHED or (through is not None and rotation.done(through) is not None):
            return
        situation = Situation(pipeline)
        decision = next_decision(situation, rotation)
        if not decision.tasks:
            _require_own_store(situation)
            raise BlockedError(str(decision.pending))
        task = next((each for each in decision.tasks if each not in unavailable), None)
        if task is None:
            raise unavailable[decision.tasks[0]]
        try:
            record = run_step(pipeline, rotation.id, task, report)
        except MemberUnavailableError as error:
            if task.shard is None:
                raise
            unavailable[task] = error
        else:
            yield record


def _require_own_store(situation: Situation) -> None:
    """Refuses to blame instances where the key store is not the one of this database."""
    with suppress(KeyStoreError):  # whose own message says less than what is waited for
        if situation.inconsistent is not None:
            raise BlockedError(situation.inconsistent)


def run_shards(
    pipeline: Pipeline,
    request_id: str,
    report: Report,
    *,
    databases: Container[str] | None = None,
    until: datetime | None = None,
) -> Iterator[StepRecord]:
    """Runs the due shards that no other process has, one after another and each once; yields each record.

    A shard that fails does not stop the others.

    Args:
        databases: of a fleet, those whose shards are taken; None: all.
        until: aware; no further shard is begun then.

    Raises:
        KeyRotationError: of the first shard that failed, after all were tried; at once, if it concerns all of them.
    """
    refused: KeyRotationError | None = None
    tried: set[Task] = set()
    while until is None or pipeline.clock.now() < until:
        if (task := _untried_shard(pipeline, request_id, tried, databases)) is None:
            break
        tried.add(task)
        try:
            record = run_step(pipeline, request_id, task, report)
            yield record
            if reencrypt.is_whole_table(record):
                others = (each for each in pipeline.ledger.walk(request_id).steps if each.table == record.table)
                yield from (each for each in others if each.shard != record.shard)
        except AtWorkError:
            continue
        except (AuditError, KeyStoreError, DatabaseUnavailableError):
            raise
        except KeyRotationError as error:
            refused = refused or error
    if refused is not None:
        raise refused


def _untried_shard(
    pipeline: Pipeline, request_id: str, tried: Container[Task], databases: Container[str] | None
) -> Task | None:
    due = next_decision(Situation(pipeline), pipeline.ledger.walk(request_id)).tasks
    untried = (task for task in due if task.shard is not None and task not in tried)
    return next(
        (
            task
            for task in untried
            if databases is None or (task.shard is not None and task.shard.table.name.database in databases)
        ),
        None,
    )


def _run(pipeline: Pipeline, rotation: Walk, task: Task, report: Report) -> StepFacts:
    pipeline = pipeline.of_walk(rotation)
    if task.shard is not None:
        table = task.shard.table.giving_back(rotation.target) if rotation.gives_back else task.shard.table
        return reencrypt.reencrypt_shard(pipeline, rotation, replace(task.shard, table=table), report)
    return pipeline.actions[rotation.action].steps[task.step](pipeline, rotation, report)


def _record(ledger: Ledger, rotation: Walk, *records: StepRecord) -> None:
    with ledger.transaction():
        for record in records:
            ledger.finish_step(rotation.id, record)
        if records[0].step is WALK[-1]:
            ledger.set_status(rotation.id, RequestStatus.FINISHED)


def _out_of_order(rotation: Walk, task: Task, decision: Decision) -> str:
    due = ", ".join(str(each) for each in decision.tasks[:3]) or decision.pending
    return f"{task} is not due in rotation {rotation.id}; due is: {due}; run `keyrotation rotate {rotation.id}`"
