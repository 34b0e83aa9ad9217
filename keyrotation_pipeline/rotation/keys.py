"""Creates or imports keys: stored, read back, compared and backed up, and only then registered.

Each function may die at any line and be called again: it completes what is half done, and refuses a key without
a recorded intent.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.errors import BackupError, KeyStoreDamagedError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.blind_index import takes_turns
from keyrotation_pipeline.fieldcrypto.codecs.format import new_key
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, SourceKey
from keyrotation_pipeline.model.audit import EventKind, Note, utc_minute
from keyrotation_pipeline.model.backups import KeyBackup
from keyrotation_pipeline.model.key_events import (
    KeyActivationDeclared,
    KeyCreationIntended,
    KeyImportIntended,
    SourceKeyImported,
)
from keyrotation_pipeline.model.keys import KeyMade, KeyRecord, KeyState, StoredKeys, promoted_at
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.backups import BackupVault
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import authorised_by
from keyrotation_pipeline.rotation.rollout import delivered_again, require_named_primary


def create_key_version(pipeline: Pipeline, rotation: Walk, report: Report) -> KeyMade:
    """Makes the key of the rotation's target version, from the operating system's CSPRNG to a checked backup.

    Raises:
        KeyStoreError: the version is in use, or the store holds a key under it that this pipeline did not make.
        BackupError: the backup is missing after it was written.
        BlockedError: an application might write under the key as soon as it gets it.
    """
    version = rotation.target
    registered = record_of(pipeline.ledger, version)
    if registered is not None and registered.state is not KeyState.PRE_ACTIVATION:
        raise KeyStoreError(
            f"{version} is {registered.state} already; run `keyrotation cancel {rotation.id}`, and request a new one"
        )
    stored = pipeline.keys.read()
    material = _stored_before(pipeline, stored, version, registered)
    if material is None:
        # Also checked when the step became due; the instances may have changed since.
        require_named_primary(pipeline, rotation)
        material = _generated(pipeline, stored, rotation)
    backup = backed_up(pipeline, version, material, rotation.id)
    if registered is None:
        record = KeyRecord(version, KeyState.PRE_ACTIVATION, material.fingerprint, pipeline.clock.now())
        pipeline.ledger.add_key(record, rotation.id)
    report(Progress(Step.KEY_VERSION, str(version), 1, 1, "keys", "stored, read back and backed up"))
    return KeyMade(version, material.fingerprint, backup.name, backup.sha256, backup.recipients)


def import_keys(pipeline: Pipeline, ring: KeyRing) -> tuple[KeyRecord, ...]:
    """Imports the keys that the application uses today into the key store and the ledger; repeating changes nothing.

    Args:
        pipeline: its key store and ledger may have none, some or all of the keys.
        ring: the existing keys. Its primary becomes the primary of an empty store; what a store names stays.

    Raises:
        KeyStoreError: another key is registered or stored under one of the versions, or another primary is named.
    """
    stored = require_importable(pipeline, ring)
    registered = {record.version for record in pipeline.ledger.keys()}
    new = [version for version in ring.versions if version not in registered]
    for version in new:
        stored = _import(pipeline, stored, version, ring.material(version))
    if stored.primary is None:
        stored = pipeline.keys.set_primary(ring.primary, stored.revision)
    elif stored.undelivered is not None:
        stored = delivered_again(pipeline, stored, stored.primary, None)
    for version in new:
        state = KeyState.ACTIVE if version == stored.primary else KeyState.DEACTIVATED
        fingerprint = ring.material(version).fingerprint
        pipeline.ledger.add_key(KeyRecord(version, state, fingerprint, pipeline.clock.now()), None)
    return pipeline.ledger.keys()


def require_importable(pipeline: Pipeline, ring: KeyRing) -> StoredKeys:
    """Refuses existing keys that differ from the registered or stored ones, before anything is written to the store.

    Every write to a store also delivers the application's list, so keys of another home must be noticed before.

    Raises:
        KeyStoreError: as `import_keys`.
    """
    registered = require_as_registered(pipeline.ledger, ring)
    stored = pipeline.keys.read()
    _require_same_primary(stored, ring, registered)
    if stored.primary is not None and stored.undelivered is not None and not registered:
        raise KeyStoreError(
            f"the key store holds other keys than the application has ({stored.undelivered}); give this application a "
            "secret of its own, or correct its list"
        )
    entries = {**stored.archived, **stored.live}
    for version in ring.versions:
        other = entries.get(version)
        if version not in registered and isinstance(other, KeyMaterial) and other != ring.material(version):
            raise KeyStoreError(
                f"the key store holds a different key under {version} ({other.fingerprint[:16]}); correct the given "
                "one, or give this application a store of its own"
            )
    return stored


def import_sources(pipeline: Pipeline, given: Mapping[str, SourceKey]) -> tuple[KeyVersion, ...]:
    """Imports the one key of each library that columns come from; repeating changes nothing.

    Each gets a number of its own, by which it is backed up, restored and destroyed. No value names it, and it goes
    into the archive alone: applications have it from where they always had it.

    Args:
        given: by the name of its variable.

    Returns:
        The numbers of those that are new.

    Raises:
        KeyStoreError: another key was imported from that variable; or a rotation is under way.
        WrongKeyError: it does not open the values.
    """
    stored, new = pipeline.keys.read(), []
    for name, key in given.items():
        version, known = stored.sources.get(name, (None, None))
        record = None if version is None else record_of(pipeline.ledger, version)
        if known is not None and known != key:
            raise KeyStoreError(
                f"another key ({known.fingerprint[:16]}) was imported from {name} as {version}; give that one, or name "
                "another variable in `from` of the column"
            )
        if version is None or known is None:
            version = _free_number(pipeline, stored)
        if record is None:
            stored = _import_source(pipeline, stored, version, key)
            new.append(version)
    return tuple(new)


def _free_number(pipeline: Pipeline, stored: StoredKeys) -> KeyVersion:
    if (walk := pipeline.ledger.current()) is not None:
        raise KeyStoreError(
            f"{walk.action} {walk.id} is under way, whose key has the next number; finish or cancel it, then run "
            "`keyrotation init` again"
        )
    counts = pipeline.ledger.counts(pipeline.tables)
    seen = {*(record.version for record in pipeline.ledger.keys()), *stored.versions}
    seen.update(version for count in counts for version, number in count.values_by_version.items() if number)
    return pipeline.tables[0].format.next_of(max(seen, default=PLAINTEXT))


def _import_source(pipeline: Pipeline, stored: StoredKeys, version: KeyVersion, key: SourceKey) -> StoredKeys:
    pipeline.ledger.append(KeyImportIntended(version, key.fingerprint))
    after = pipeline.keys.add(version, key, stored.revision, archived=True)
    if after.archived.get(version) != key:
        raise KeyStoreDamagedError(f"{version} does not read back from the key store as it was stored; check the store")
    backed_up(pipeline, version, key, None)
    with pipeline.ledger.transaction():
        record = KeyRecord(version, KeyState.ARCHIVED, key.fingerprint, pipeline.clock.now())
        pipeline.ledger.add_key(record, None)
        pipeline.ledger.append(SourceKeyImported(version, key.fingerprint, key.name))
    return after


def require_as_registered(ledger: Ledger, ring: KeyRing) -> Mapping[KeyVersion, KeyRecord]:
    """Refuses another key for a registered version; returns what is registered.

    Raises:
        KeyStoreError: names the version.
    """
    registered = {record.version: record for record in ledger.keys()}
    for version in ring.versions:
        if version in registered and registered[version].fingerprint != ring.material(version).fingerprint:
            raise KeyStoreError(
                f"the key given for {version} is not the one registered as {registered[version].fingerprint[:16]}; "
                f"give that one, leave {version} unset, or, if the registered one decrypts nothing: "
                f"`keyrotation replace-key {version} --reason TEXT`"
            )
    return registered


def declare_activation(pipeline: Pipeline, activated_at: datetime) -> None:
    """Records since when an imported primary has been in use; repeating changes nothing.

    Raises:
        KeyStoreError: that is in the future, or after the key was imported.
    """
    primary = pipeline.keys.read().primary
    if primary is None or promoted_at(primary, pipeline.ledger.requests()) is not None:
        return
    if activated_at > pipeline.clock.now():
        raise KeyStoreError("[keys] activated_at is in the future; write when the primary came into use")
    record = record_of(pipeline.ledger, primary)
    if record is not None and activated_at > record.created_at:
        raise KeyStoreError(
            f"{primary} was in use when it was imported on {utc_minute(record.created_at)}; write when it came "
            "into use, before that, as [keys] activated_at"
        )
    if declared_activations(pipeline.ledger).get(primary) != activated_at:
        pipeline.ledger.append(KeyActivationDeclared(primary, activated_at))


def declared_activations(ledger: Ledger) -> Mapping[KeyVersion, datetime]:
    """When imported keys came into use, as far as it was declared."""
    return {fact.version: fact.activated_at for fact in recorded(ledger, KeyActivationDeclared)}


def record_of(ledger: Ledger, version: KeyVersion) -> KeyRecord | None:
    """The ledger's record of a version."""
    return next((record for record in ledger.keys() if record.version == version), None)


def require_registered_keys(pipeline: Pipeline) -> None:
    """Refuses a key store that gives applications no key ring, or holds another key under a registered version.

    Raises:
        KeyStoreDamagedError: says which.
        KeyStoreUnavailableError: the store does not answer.
    """
    stored = pipeline.keys.read()
    stored.ring()
    for record in pipeline.ledger.keys():
        if record.version in stored:
            stored.registered(record)


def require_stored_and_backed_up(vault: BackupVault, stored: StoredKeys, record: KeyRecord) -> KeyBackup:
    """Checks that the store holds the registered key and that an intact backup of it exists; returns the backup.

    Raises:
        KeyStoreDamagedError: the store holds no such key, or another one.
        BackupError: no intact backup of exactly this key is in the vault.
    """
    stored.registered(record)
    return _intact_backup(vault, record.version, record.fingerprint)


def _intact_backup(vault: BackupVault, version: KeyVersion, fingerprint: str) -> KeyBackup:
    backup = vault.key_backup(version, fingerprint)
    if backup is None:
        raise BackupError(f"there is no intact backup of {version} ({fingerprint[:16]}); run `keyrotation backup`")
    return backup


def _stored_before(
    pipeline: Pipeline, stored: StoredKeys, version: KeyVersion, registered: KeyRecord | None
) -> KeyMaterial | None:
    """The key that an earlier attempt stored, if it got that far."""
    if version in stored.archived:
        raise KeyStoreError(f"the key store holds {version} in its archive; move it away: no version is used again")
    if registered is not None:
        return stored.registered(registered)
    intended = recorded(pipeline.ledger, KeyCreationIntended)
    if version not in stored.live:
        sent = stored.pending.get(version)
        if sent is not None and KeyCreationIntended(version, sent.fingerprint) in intended:
            _require_read_back(pipeline.keys.add(version, sent, stored.revision), version, sent)
            return sent
        return None
    material = stored.material(version)
    if KeyCreationIntended(version, material.fingerprint) not in intended:
        raise KeyStoreError(
            f"the key store holds a {version} ({material.fingerprint[:16]}) that was not made here; remove it"
        )
    return material


def _generated(pipeline: Pipeline, stored: StoredKeys, rotation: Walk) -> KeyMaterial:
    """Stores a new key. The recorded intent holds its fingerprint, by which a later attempt recognises it."""
    version, material = rotation.target, _generate(pipeline, stored, rotation)
    if material.fingerprint in stored.fingerprints | {record.fingerprint for record in pipeline.ledger.keys()}:
        raise KeyStoreError(
            "the operating system gave the same random key twice; do not use this machine until that is explained"
        )
    pipeline.ledger.append(KeyCreationIntended(version, material.fingerprint), rotation.id)
    _require_read_back(pipeline.keys.add(version, material, stored.revision), version, material)
    return material


def _generate(pipeline: Pipeline, stored: StoredKeys, rotation: Walk) -> KeyMaterial:
    """Generates a key for the application's library, which values name unlike any key before."""
    if (made := pipeline.keys.made(rotation.target)) is not None:
        return made
    declared = pipeline.tables[0].format
    taken = pipeline.inventory.key_markers(pipeline.tables)
    replaces_all = rotation.is_emergency
    while True:
        made = new_key(declared, taken.values(), stored.present, stored.materials, replaces_all=replaces_all)
        if _is_in_turn(pipeline.tables, stored, rotation.target, made):
            return made


def _is_in_turn(
    tables: Sequence[EncryptedTable], stored: StoredKeys, version: KeyVersion, material: KeyMaterial
) -> bool:
    """Whether an application that knows no numbers can tell from a key which column its search indexes are in."""
    present, primary = stored.present, stored.primary
    if present is None or primary is None or not has_blind_indexes(tables):
        return True
    return takes_turns(version, material, {primary: present})


def has_blind_indexes(tables: Sequence[EncryptedTable]) -> bool:
    """Whether a declared search index names no version of its key."""
    return any(not index.form.names_versions for table in tables for index in table.indexes)


def _import(pipeline: Pipeline, stored: StoredKeys, version: KeyVersion, material: KeyMaterial) -> StoredKeys:
    pipeline.ledger.append(KeyImportIntended(version, material.fingerprint))
    after = pipeline.keys.add(version, material, stored.revision)
    _require_read_back(after, version, material)
    backed_up(pipeline, version, material, None)
    return after


def _require_same_primary(stored: StoredKeys, ring: KeyRing, registered: Mapping[KeyVersion, KeyRecord]) -> None:
    primary = stored.primary
    if primary is None and registered:
        raise KeyStoreError("the key store names no primary, though keys are registered; name the active one there")
    if primary not in {None, ring.primary} and ring.primary not in registered:
        raise KeyStoreError(
            f"the key store's primary is {primary}, but {ring.primary} is given as primary; name {primary}, "
            "and change it with `keyrotation request`"
        )


def _require_read_back(stored: StoredKeys, version: KeyVersion, material: KeyMaterial) -> None:
    if stored.live.get(version) != material:
        raise KeyStoreDamagedError(f"{version} does not read back from the key store as it was stored; check the store")


def backed_up(pipeline: Pipeline, version: KeyVersion, material: KeyMaterial, request: str | None) -> KeyBackup:
    """The intact backup of a key: the existing one, or a new one.

    Raises:
        BackupError: it is missing after it was written.
    """
    if (backup := pipeline.vault.key_backup(version, material.fingerprint)) is not None:
        return backup
    made = pipeline.vault.store_key(version, material, pipeline.ledger.head())
    facts = {"version": str(version), "backup": made.name, "sha256": made.sha256, "recipients": list(made.recipients)}
    pipeline.ledger.append(Note(EventKind.KEY_BACKED_UP, facts), request)
    return _intact_backup(pipeline.vault, version, material.fingerprint)


def described_primary(pipeline: Pipeline, rotation: Walk) -> str:
    """The description of a new primary in the key store: its version, its date, and who authorised it.

    Source: the source procedure, sections 4.1 and 5.1, step 2 of each.
    """
    who = authorised_by(pipeline, rotation)
    if rotation.is_emergency:
        known = f"{rotation.target} for {rotation.incident}" if rotation.incident else str(rotation.target)
        return f"Emergency rotation key (incident {rotation.requested_at:%Y%m%d}), {known}, authorised by {who}"
    return f"Encryption key {rotation.target} (rotated {pipeline.clock.now():%Y-%m-%d}), authorised by {who}"


def described_archived(pipeline: Pipeline, rotation: Walk, version: KeyVersion) -> str:
    """The description of an archived key. Source: the source procedure, section 4.4, step 4."""
    who = authorised_by(pipeline, rotation)
    return f"Archived key {version} (rotated {pipeline.clock.now():%Y-%m-%d}), authorised by {who}"
