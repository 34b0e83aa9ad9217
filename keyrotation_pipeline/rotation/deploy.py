"""The first two rollouts: every application instance reads the new key, and only then do writes move to it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.columns import EncryptedTable
from keyrotation_pipeline.model.instances import Instance
from keyrotation_pipeline.model.key_events import PrimaryChanged, PrimaryChangeIntended
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.request import Step, Walk
from keyrotation_pipeline.model.rollout import Aim, Goal
from keyrotation_pipeline.model.stored_keys import StoredKeys
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.compromising import held_compromised, tell_applications
from keyrotation_pipeline.requests.superseding import lineage
from keyrotation_pipeline.rotation.keys import record_of, require_kept
from keyrotation_pipeline.rotation.rollout import bring


def roll_out_dual_key(pipeline: Pipeline, rotation: Walk, report: Report) -> Mapping[str, Any]:
    """Wait until every application instance is seen to read the target version, while nothing writes under it.

    Raises:
        BlockedError: an instance does not read it in time, or something writes under it already.
    """
    instances = bring_to_read(pipeline, rotation, report, Step.DUAL_KEY_ROLLOUT)
    _refuse_early_writers(rotation, instances)
    _refuse_early_values(pipeline, rotation.target)
    return {"version": str(rotation.target), "instances": len(instances), "names": names_of(instances)}


def roll_out_primary_key(pipeline: Pipeline, rotation: Walk, report: Report) -> Mapping[str, Any]:
    """Make the target version the primary, and wait until every instance is seen to write under it.

    Raises:
        BlockedError: the target may not become the primary, or an instance does not write under it in time.
        BackupError: the target has no intact backup.
    """
    record = _require_registered(pipeline, rotation)
    stored = pipeline.keys.read()
    if not _promoted_before(pipeline, stored, rotation):
        _require_promotable(pipeline, stored, rotation, record)
        readers = bring_to_read(pipeline, rotation, report, Step.PRIMARY_KEY_ROLLOUT)
        _refuse_early_writers(rotation, readers)
        _refuse_early_values(pipeline, rotation.target)
        pipeline.ledger.append(PrimaryChangeIntended(rotation.source, rotation.target), rotation.id)
        pipeline.keys.set_primary(rotation.target, stored.revision)
    _record_promotion(pipeline, rotation)
    tell_applications(pipeline, rotation.id)
    instances = bring_to_write(pipeline, rotation, report)
    # By this number, row versions of later transactions are known to be written since promotion. So it comes last.
    if rotation.promotion_xid is None:
        pipeline.ledger.set_promotion(rotation.id, pipeline.database.current_xid())
    return {"primary": str(rotation.target), "instances": len(instances), "names": names_of(instances)}


def bring_to_read(pipeline: Pipeline, rotation: Walk, report: Report, step: Step) -> tuple[Instance, ...]:
    """Bring every instance to read the target; see `bring`."""
    return bring(pipeline, rotation, Goal(Aim.READS, (rotation.target,)), step, report)


def bring_to_write(pipeline: Pipeline, rotation: Walk, report: Report) -> tuple[Instance, ...]:
    """Bring every instance to write under the target; see `bring`."""
    return bring(pipeline, rotation, Goal(Aim.WRITES, (rotation.target,)), Step.PRIMARY_KEY_ROLLOUT, report)


def _refuse_early_writers(rotation: Walk, instances: Sequence[Instance]) -> None:
    target = rotation.target
    if early := [instance.name for instance in instances if instance.writes == target]:
        raise BlockedError(
            f"instance {early[0]} writes under {target} before its promotion; have it write under {rotation.source}"
        )


def _refuse_early_values(pipeline: Pipeline, target: KeyVersion) -> None:
    """Nobody may have written under the target yet, whether it reports itself or not."""
    for table in pipeline.tables:
        if not (rows := _rows_under(pipeline, table, target)):
            continue
        columns = [each for each in table.columns if _rows_under(pipeline, replace(table, columns=(each,)), target)]
        raise BlockedError(
            f"{target} value seen before promotion: table {table.name} holds {rows} in "
            f"{', '.join(columns) or 'its columns'}; find what writes them, and have it write under the old version"
        )


def _rows_under(pipeline: Pipeline, table: EncryptedTable, version: KeyVersion) -> int:
    return pipeline.database.old_rows(table, [version], None).rows


def _require_registered(pipeline: Pipeline, rotation: Walk) -> KeyRecord:
    record = record_of(pipeline, rotation.target)
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
    """Whether an earlier attempt named the target: then values under it are as they should be."""
    if stored.primary != rotation.target:
        return False
    change = PrimaryChangeIntended(rotation.source, rotation.target)
    return any(
        change in recorded(pipeline.ledger, PrimaryChangeIntended, each.id) for each in lineage(pipeline, rotation)
    )


def _require_promotable(pipeline: Pipeline, stored: StoredKeys, rotation: Walk, record: KeyRecord) -> None:
    if stored.primary != rotation.source:
        raise BlockedError(
            f"the key store names {stored.primary} as the primary, but rotation {rotation.id} starts from "
            f"{rotation.source}; name {rotation.source} there again"
        )
    require_kept(pipeline, stored, record)


def _record_promotion(pipeline: Pipeline, rotation: Walk) -> None:
    """Move both states together; the source first, since only one version may be active."""
    lost = held_compromised(pipeline, rotation)
    with pipeline.ledger.transaction():
        source, target = record_of(pipeline, rotation.source), record_of(pipeline, rotation.target)
        if source is not None and source.state is not KeyState.COMPROMISED:
            state = KeyState.COMPROMISED if rotation.source in lost else KeyState.DEACTIVATED
            pipeline.ledger.set_key_state(rotation.source, state, rotation.id)
        if target is not None and target.state is not KeyState.ACTIVE:
            pipeline.ledger.set_key_state(rotation.target, KeyState.ACTIVE, rotation.id)
            pipeline.ledger.append(PrimaryChanged(rotation.source, rotation.target), rotation.id)


def names_of(instances: Sequence[Instance]) -> list[str]:
    """The instances' names, in order."""
    return sorted(instance.name for instance in instances)
