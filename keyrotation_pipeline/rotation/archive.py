"""Archives the retired key: checks that no application has it, and that it is archived and backed up; records that."""

from collections.abc import Mapping
from typing import Any

from keyrotation_pipeline.errors import KeyStoreError
from keyrotation_pipeline.model.backups import KeyBackup
from keyrotation_pipeline.model.keys import SHELVED, KeyRecord, KeyState, StoredKeys
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.confirming import target_at
from keyrotation_pipeline.rotation.keys import backed_up
from keyrotation_pipeline.rotation.prove import retired_versions
from keyrotation_pipeline.rotation.rollout import await_instances, seen_facts


def confirm_key_withdrawn(pipeline: Pipeline, rotation: Walk, report: Report) -> Mapping[str, Any]:
    """Waits until no instance has the keys that retirement withdrew, checks each key, and records it as archived.

    A key without an intact backup gets one: old database backups need it for as long as they exist.

    Raises:
        BlockedError: an instance is not seen to be without them in time, or rows with search indexes stay locked.
        KeyStoreError: a key is still live, is missing, or is not the one registered.
    """
    # Else an instance that gets the key again would be waited for, and no reload would help.
    _require_withdrawn(pipeline, rotation)
    instances = await_instances(pipeline, rotation, target_at(pipeline, rotation), Step.ARCHIVED_KEY, report)
    cleared = _clear_indexes(pipeline, rotation, report)
    kept, stored = [], pipeline.keys.read()
    retired = _retired(pipeline.ledger, stored, rotation)
    # Before the transaction: a backup names the audit's last event, which must be one that stays.
    for record in retired:
        report(Progress(Step.ARCHIVED_KEY, str(record.version), 0, 1, "keys"))
        backup = _require_archived(pipeline, stored, rotation, record)
        kept.append({"version": str(record.version), "fingerprint": record.fingerprint[:16], "backup": backup.name})
    with pipeline.ledger.transaction():
        for record in retired:
            if record.state not in SHELVED:
                pipeline.ledger.set_key_state(record.version, KeyState.ARCHIVED, rotation.id)
    return {"archived": kept, **cleared, **seen_facts(instances)}


def _clear_indexes(pipeline: Pipeline, rotation: Walk, report: Report) -> Mapping[str, Any]:
    """Clears the search indexes under withdrawn keys, and has the tables refuse such ones.

    It comes after the rollout: an instance that has both keys writes both indexes, so that unique constraints hold
    while rows are re-encrypted. Each value has an index under the target by now, as the proof counted.

    Returns:
        How many rows were cleared, by table; nothing where no table has a search index.
    """
    cleared = {}
    for table in pipeline.tables:
        if table.indexes:
            _require_withdrawn(pipeline, rotation)
            cleared[str(table.name)] = pipeline.rewriting.clear_indexes(rotation.id, table, rotation.target, report)
            if table.format.names_versions:  # else the login that made them may write no more
                pipeline.fencing.fence(table.of_indexes, retired_versions(pipeline.ledger, rotation))
    return {"search_indexes_cleared": cleared} if cleared else {}


def _require_withdrawn(pipeline: Pipeline, rotation: Walk) -> None:
    stored = pipeline.keys.read()
    for record in _retired(pipeline.ledger, stored, rotation):
        _require_only_archived(stored, record)


def _retired(ledger: Ledger, stored: StoredKeys, rotation: Walk) -> tuple[KeyRecord, ...]:
    """The source, and any other version in the archive that is not recorded as archived: a crash loses none of them."""

    def concerned(record: KeyRecord) -> bool:
        in_archive = record.version in stored.archived and record.state not in SHELVED
        return record.version != rotation.target and (record.version == rotation.source or in_archive)

    return tuple(filter(concerned, ledger.keys()))


def _require_archived(pipeline: Pipeline, stored: StoredKeys, rotation: Walk, record: KeyRecord) -> KeyBackup:
    _require_only_archived(stored, record)
    if (message := stored.left_behind.get(record.version)) is not None:
        raise KeyStoreError(message)
    return backed_up(pipeline, record.version, stored.registered(record), rotation.id)


def _require_only_archived(stored: StoredKeys, record: KeyRecord) -> None:
    if record.version in stored.live:
        raise KeyStoreError(
            f"key {record.version} is live in the key store again; archive it with {stored.restore(record.version)}, "
            "or wait a minute and run the same again"
        )
    stored.material(record.version)
