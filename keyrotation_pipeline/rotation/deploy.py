"""Runs the first two rollouts: every application instance reads the new key, and only then do writes move to it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.fleet import Instance, RolloutTarget, TargetKind
from keyrotation_pipeline.model.key_events import PrimaryChanged, PrimaryChangeIntended
from keyrotation_pipeline.model.keys import KeyRecord, KeyState, StoredKeys
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import named_by_incident
from keyrotation_pipeline.requests.confirming import reading_target
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.requests.takeover import PRIMARY_LOCK, held_compromised, lineage, publish_compromised
from keyrotation_pipeline.rotation.key_checks import counted_in, require_keys_open
from keyrotation_pipeline.rotation.keys import described_primary, record_of, require_stored_and_backed_up
from keyrotation_pipeline.rotation.rollout import await_instances, seen_facts

EMERGENCY_LOOK_SECONDS = 3.0


def roll_out_dual_key(pipeline: Pipeline, rotation: Walk, report: Report) -> Mapping[str, Any]:
    """Waits until every application instance is seen to read the target version, while nothing writes under it.

    Raises:
        BlockedError: an instance does not read it in time, or something writes under it already.
    """
    instances = bring_to_read(pipeline, rotation, report, Step.DUAL_KEY_ROLLOUT)
    _refuse_early_writers(rotation, instances)
    missed = _refuse_early_values(pipeline, rotation)
    return _rolled_out("version", rotation, instances, not_looked_through=missed)


def roll_out_primary_key(pipeline: Pipeline, rotation: Walk, report: Report) -> Mapping[str, Any]:
    """Makes the target version the primary, and waits until every instance is seen to write under it.

    Raises:
        BlockedError: the target may not become the primary, or an instance does not write under it in time.
        BackupError: the target has no intact backup.
        WrongKeyError: values do not decrypt with the key of their version, so they could not be re-encrypted.
    """
    _require_registered(pipeline.ledger, rotation)
    stored = pipeline.keys.read()
    missed, untried = tuple[str, ...](), tuple[str, ...]()
    if not (promoted := _promoted_before(pipeline, stored, rotation)):
        _require_promotable(pipeline, stored, rotation)
        readers = bring_to_read(pipeline, rotation, report, Step.PRIMARY_KEY_ROLLOUT)
        _refuse_early_writers(rotation, readers)
        missed = _refuse_early_values(pipeline, rotation)
        # The versions counted at the request; an emergency does not search tables to their end.
        wanted = {} if rotation.is_emergency else counted_in(pipeline.ledger.counts(pipeline.tables))
        untried = require_keys_open(pipeline, stored, wanted, emergency=rotation.is_emergency).untried
    with pipeline.ledger.lock(PRIMARY_LOCK):
        if not promoted:
            _require_promotable(pipeline, stored, rotation)
            pipeline.ledger.append(PrimaryChangeIntended(rotation.source, rotation.target), rotation.id)
            pipeline.keys.set_primary(rotation.target, stored.revision, described_primary(pipeline, rotation))
        record_promotion(pipeline, rotation)
    publish_compromised(pipeline, rotation.id)
    instances = bring_to_write(pipeline, rotation, report)
    # Row versions with a later transaction id were written since promotion. So this comes last.
    if rotation.promotion_xid is None:
        pipeline.ledger.set_promotion(rotation.id, pipeline.evidence.current_xid())
    return _rolled_out("primary", rotation, instances, not_looked_through=missed, not_decrypted=untried)


def bring_to_read(pipeline: Pipeline, rotation: Walk, report: Report, step: Step) -> tuple[Instance, ...]:
    """Waits until every instance reads the target; see `await_instances`."""
    return await_instances(pipeline, rotation, reading_target(pipeline, rotation), step, report)


def bring_to_write(pipeline: Pipeline, rotation: Walk, report: Report) -> tuple[Instance, ...]:
    """Waits until every instance writes under the target; see `await_instances`."""
    return await_instances(
        pipeline, rotation, RolloutTarget(TargetKind.WRITES, (rotation.target,)), Step.PRIMARY_KEY_ROLLOUT, report
    )


def _refuse_early_writers(rotation: Walk, instances: Sequence[Instance]) -> None:
    target = rotation.target
    if early := [instance.name for instance in instances if instance.writes == target]:
        raise BlockedError(
            f"instance {early[0]} writes under {target} before its promotion; have it write under {rotation.source}"
        )


def _refuse_early_values(pipeline: Pipeline, rotation: Walk) -> tuple[str, ...]:
    """Refuses values under the target that were written before its promotion, by reporting instances or others.

    In an emergency the search takes only a few seconds, since the old key must be replaced at once, and a member of a
    fleet that does not answer is never searched. A value that is missed is not lost: every instance reads the target
    before it becomes the primary. A server that holds the keys encrypts with the target as soon as it makes it, and
    reads it for everybody: such values are expected.

    Returns:
        The tables that were not searched to their end.
    """
    missed, target, seen = [], rotation.target, pipeline.inventory.rows_seen
    seconds = EMERGENCY_LOOK_SECONDS / len(pipeline.tables) if rotation.is_emergency else inf
    for table in pipeline.tables:
        if table.format.is_held_by_server:
            continue
        rows = seen(table, target, seconds)
        if rows is None:
            missed.append(str(table.name))
        elif rows:
            columns = [each for each in table.columns if seen(replace(table, columns=(each,)), target, inf)]
            raise BlockedError(
                f"{target} value seen before promotion: table {table.name} holds {rows} in "
                f"{', '.join(columns) or 'its columns'}; find what writes them, and have it write under the old version"
            )
    return tuple(missed)


def _rolled_out(what: str, rotation: Walk, instances: Sequence[Instance], **missed: Sequence[str]) -> Mapping[str, Any]:
    """The facts of a rollout, and the tables that were not looked through, or of which no value was decrypted."""
    left_out = {name: list(tables) for name, tables in missed.items() if tables}
    return {what: str(rotation.target), **seen_facts(instances), **left_out}


def _require_registered(ledger: Ledger, rotation: Walk) -> KeyRecord:
    record = record_of(ledger, rotation.target)
    if record is None:
        raise BlockedError(
            f"{rotation.target} is not registered; run `keyrotation rotate {rotation.id}` from its start"
        )
    if record.state is KeyState.COMPROMISED:
        raise BlockedError(
            f"{rotation.target} is compromised and never becomes the primary; run `keyrotation cancel {rotation.id}`"
        )
    return record


def _promoted_before(pipeline: Pipeline, stored: StoredKeys, rotation: Walk) -> bool:
    """Whether an earlier attempt named the target: then values under it are expected."""
    if stored.primary != rotation.target:
        return False
    change = PrimaryChangeIntended(rotation.source, rotation.target)
    return any(
        change in recorded(pipeline.ledger, PrimaryChangeIntended, each.id) for each in lineage(pipeline, rotation)
    )


def _require_promotable(pipeline: Pipeline, stored: StoredKeys, rotation: Walk) -> None:
    record = _require_registered(pipeline.ledger, rotation)
    if stored.primary != rotation.source:
        raise BlockedError(
            f"the key store names {stored.primary} as the primary, but rotation {rotation.id} starts from "
            f"{rotation.source}; name {rotation.source} there again"
        )
    if (reason := named_by_incident(Situation(pipeline), rotation.target)) is not None:
        raise BlockedError(str(reason))
    require_stored_and_backed_up(pipeline.vault, stored, record)


def record_promotion(pipeline: Pipeline, rotation: Walk) -> None:
    """Moves both states together; the source first, since only one version may be active."""
    lost = held_compromised(pipeline.ledger, rotation)
    with pipeline.ledger.transaction():
        source = record_of(pipeline.ledger, rotation.source)
        if source is not None and source.state is not KeyState.COMPROMISED:
            state = KeyState.COMPROMISED if rotation.source in lost else KeyState.DEACTIVATED
            pipeline.ledger.set_key_state(rotation.source, state, rotation.id)
        record_primary(pipeline, rotation)


def record_primary(pipeline: Pipeline, rotation: Walk) -> None:
    """Records that the key store names the target as the primary. An instance's report that names this is newer."""
    target = record_of(pipeline.ledger, rotation.target)
    is_new = target is not None and target.state is not KeyState.ACTIVE
    if is_new:
        pipeline.ledger.set_key_state(rotation.target, KeyState.ACTIVE, rotation.id)
    if is_new or _is_unrecorded(pipeline, rotation):
        pipeline.ledger.append(PrimaryChanged(rotation.source, rotation.target), rotation.id)


def _is_unrecorded(pipeline: Pipeline, rotation: Walk) -> bool:
    """Whether a change of the primary was intended, and is not recorded: a rollback may change no state of a key."""
    requests = {each.id for each in lineage(pipeline, rotation)}
    events = pipeline.ledger.events(EventKind.PRIMARY_CHANGE_INTENDED, EventKind.PRIMARY_CHANGED)
    kinds = [each.kind for each in events if each.request in requests]
    return bool(kinds) and kinds[-1] == EventKind.PRIMARY_CHANGE_INTENDED
