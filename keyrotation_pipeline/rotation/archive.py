"""Archive the retired key: see that it is kept, readable, backed up and out of the applications; then say so."""

from collections.abc import Mapping
from typing import Any

from keyrotation_pipeline.errors import KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.backups import KeyBackup
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.request import Step, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline

# Compromised stays compromised, whatever shelf the key lies on; the others are archived already, or gone.
FINAL_STATES = frozenset({KeyState.ARCHIVED, KeyState.COMPROMISED, KeyState.DESTROYED})


def archive_key(pipeline: Pipeline, rotation: Walk, report: Report) -> Mapping[str, Any]:
    """Check every key that retirement took from the applications, and record it as archived.

    A key without an intact backup gets one: old database backups need it for as long as they are kept.

    Raises:
        KeyStoreError: a key is still live, is missing, or is not the one registered.
    """
    kept = []
    with pipeline.ledger.transaction():
        for record in _retired(pipeline, rotation):
            report(Progress(Step.ARCHIVED_KEY, str(record.version), 0, 1, "keys"))
            backup = _require_kept(pipeline, record)
            if record.state not in FINAL_STATES:
                pipeline.ledger.set_key_state(record.version, KeyState.ARCHIVED, rotation.id)
            kept.append({"version": str(record.version), "fingerprint": record.fingerprint[:16], "backup": backup.name})
    return {"archived": kept}


def _retired(pipeline: Pipeline, rotation: Walk) -> tuple[KeyRecord, ...]:
    """The source, and what else lies in the archive without being recorded so: a crash loses none of them."""
    registered = pipeline.ledger.keys()
    shelf = set(pipeline.keys.archived())

    def concerned(version: KeyVersion, state: KeyState) -> bool:
        return version == rotation.source or (version in shelf and state not in FINAL_STATES)

    return tuple(
        record for record in registered if record.version != rotation.target and concerned(record.version, record.state)
    )


def _require_kept(pipeline: Pipeline, record: KeyRecord) -> KeyBackup:
    version = record.version
    if version in pipeline.keys.versions() or version not in pipeline.keys.archived():
        raise KeyStoreError(
            f"key {version} is not in the archive of the key store alone; look at who restored it to the applications"
        )
    material = pipeline.keys.get(version)
    if material.fingerprint != record.fingerprint:
        raise KeyStoreError(
            f"archived key {version} has the fingerprint {material.fingerprint[:16]}, registered is "
            f"{record.fingerprint[:16]}; put the registered key back from its backup"
        )
    backup = pipeline.vault.key_backup(version, record.fingerprint)
    return backup or pipeline.vault.store_key(version, material, pipeline.ledger.head())
