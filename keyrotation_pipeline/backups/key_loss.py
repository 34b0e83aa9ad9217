"""Restores a key that the key store has lost from a backup, and surveys what a loss of keys leaves readable."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from keyrotation_pipeline.audit.divergence import divergence
from keyrotation_pipeline.audit.events import entries, recorded
from keyrotation_pipeline.audit.history import history
from keyrotation_pipeline.backups.catalog import BackupContext, KeptSets, is_intact, kept_sets, read_key, sets_of
from keyrotation_pipeline.backups.destruction import LOCK as DESTRUCTION_LOCK
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.backups.restore_checks import sampled_under
from keyrotation_pipeline.errors import (
    BackupError,
    FingerprintMismatchError,
    KeyRotationError,
    KeyStoreDamagedError,
    KeyStoreError,
    MissingVersionError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, SourceKey
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backups import KeyCopy
from keyrotation_pipeline.model.key_events import KeyDestructionIntended, KeyRestoreIntended, KeyStateChanged
from keyrotation_pipeline.model.keys import KeyRecord, KeyState, StoredKeys, active_version
from keyrotation_pipeline.model.request_events import DatabaseReconciled
from keyrotation_pipeline.model.requests import RequestAction, Step
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.backups import RecoveryKey
from keyrotation_pipeline.ports.keys import OwnedKeys
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import opening
from keyrotation_pipeline.requests.key_list import has_key_list, note_delivery
from keyrotation_pipeline.requests.policy import require_signed_key_store
from keyrotation_pipeline.requests.roster import claim_store
from keyrotation_pipeline.requests.takeover import publish_compromised
from keyrotation_pipeline.rotation.keys import record_of


@dataclass(frozen=True, slots=True)
class KeyRestored:
    """A version that is in the key store again.

    Args:
        source: where it came from.
        place: ``live`` or ``archive``.
        decrypted: values of the database that the key decrypted before it was stored.
    """

    version: KeyVersion
    fingerprint: str
    source: str
    place: str
    decrypted: int


def lost_keys(ledger: Ledger, stored: StoredKeys, records: Sequence[KeyRecord]) -> list[str]:
    """A sentence for each registered key that is missing from the key store, live or archived, or has changed there.

    And for each destroyed one that is there, unless its destruction has yet to remove it.

    Args:
        stored: read after `records`: a key is stored before it is registered, and nothing but `destroy` removes one.
    """
    destroyed = {fact.version for fact in recorded(ledger, KeyDestructionIntended)}
    unfinished = {each.source for each in opening.pending(ledger, RequestAction.DESTROY)}
    messages = []
    for record in records:
        if record.state is KeyState.DESTROYED and record.version in stored and record.version not in unfinished:
            messages.append(
                f"{record.version} is destroyed, but the key store holds it again; find out who put it back, and run "
                f"`keyrotation destroy {record.version}`"
            )
        if record.state is KeyState.DESTROYED or record.version in destroyed:
            continue
        try:
            stored.registered(record)
        except KeyStoreDamagedError as error:
            messages.append(str(error))
    return messages


def audited_primary(ledger: Ledger) -> KeyVersion | None:
    """The primary by the audit: the active version, else the last one that was, compromised and not replaced yet."""
    if (active := active_version(ledger.keys())) is not None:
        return active
    changes = (each.fact for each in history(ledger, EventKind.KEY_STATE_CHANGED) if each.fault is None)
    were = [each.version for each in changes if isinstance(each, KeyStateChanged) and each.before is KeyState.ACTIVE]
    return were[-1] if were else None


def newest_key(site: BackupContext, version: KeyVersion, key: RecoveryKey) -> tuple[KeyMaterial, str]:
    """The key from the newest readable backup, and where that is; S3 first, then the local directory.

    Raises:
        KeyStoreError: the version is destroyed.
        MissingVersionError: no place has a backup of it.
        RecoveryError, BackupError: there are backups, but none can be used; raises the first one's error.
    """
    record = record_of(site.pipeline.ledger, version)
    _require_not_destroyed(record)  # before searching for copies, which are gone with it
    refused: KeyRotationError | None = None
    searched = []
    for place in site.places:
        try:
            every = place.with_versions()
            for copy in _copies(every, site.trust, version, record):
                try:
                    return read_key(every, copy, key), _named(every, copy)
                except KeyRotationError as error:
                    refused = refused or error
            searched.append(f"{place.description}{every.older.caveat}")
        except BackupError as error:  # the place does not answer
            refused = refused or error
    if refused is not None:
        raise refused
    raise MissingVersionError(
        f"no backup of {version} is in {' or '.join(searched)}; "
        f"name one with `keyrotation restore-key {version} --from FILE`"
    )


def _named(place: BackupPlace, copy: KeyCopy) -> str:
    return f"{copy.file.name} in {place.older.where(copy.file.name, place.description)}"


def _copies(
    place: BackupPlace, trust: ManifestTrust, version: KeyVersion, record: KeyRecord | None
) -> Iterator[KeyCopy]:
    """Every copy of the registered key in a place, newest first."""
    for made in sets_of(place, trust):
        for copy in made.keys:
            if copy.version == version and (record is None or copy.fingerprint == record.fingerprint):
                yield copy


def restore_key(pipeline: Pipeline, version: KeyVersion, material: KeyMaterial, source: str) -> KeyRestored:
    """Put a lost key back where it belongs according to the ledger; repeating changes nothing.

    Raises:
        AtWorkError: a key is being destroyed, or another restored.
        FingerprintMismatchError: it is not the key that is registered.
        UndecryptableError: it does not decrypt what is stored under its version.
        KeyStoreError: the version is destroyed, or the store holds a different key under it.
        AuditError: the key is restored, but the pinned roster cannot be trusted.
    """
    with pipeline.ledger.lock(DESTRUCTION_LOCK):  # else what is destroyed meanwhile would come back
        return _restored(pipeline, version, material, source)


def _restored(pipeline: Pipeline, version: KeyVersion, material: KeyMaterial, source: str) -> KeyRestored:
    record, stored = _require_registered(pipeline.ledger, version, material), pipeline.keys.read()
    _require_no_other(stored, version, material)
    is_source = isinstance(material, SourceKey)  # no value names it, and it is never live
    ring = None if is_source else KeyRing({version: material}, version)
    decrypted = sum(sampled_under(pipeline.inventory, table, version, ring) for table in pipeline.tables if ring)
    is_primary = version == audited_primary(pipeline.ledger) or record.state is KeyState.ACTIVE
    archived = is_source or _belongs_in_archive(pipeline.ledger, stored, record, needed=is_primary or bool(decrypted))
    restored = KeyRestored(version, material.fingerprint, source, "archive" if archived else "live", decrypted)
    intent = KeyRestoreIntended(version, material.fingerprint, source, restored.place, decrypted)
    pipeline.ledger.append(intent)
    primary = stored.primary or (version if is_primary else None)
    if primary is not None and not archived:
        _note_list(pipeline, primary)
    # A store that was lost names nobody yet.
    with pipeline.keys.unstamped() if stored.owner is None else nullcontext():
        _store(pipeline, version, material, archived=archived, primary=is_primary)
        if pipeline.keys.read().primary is not None:
            publish_compromised(pipeline, None)  # which the lost store had published
    pipeline.ledger.append(Note(EventKind.KEY_RESTORED, intent.as_json()))
    _name_roster(pipeline)
    return restored


def _belongs_in_archive(ledger: Ledger, stored: StoredKeys, record: KeyRecord, *, needed: bool) -> bool:
    """Whether applications do not get the key any more; where it is the wrong place, a walk would wait for ever.

    Args:
        needed: values are under it, or it is the primary.
    """
    version, walk = record.version, ledger.current()
    if version in stored.archived:
        return True  # not lost: it stays there, whatever its state
    if record.state is KeyState.COMPROMISED:
        return not needed
    if walk is not None and walk.target == version and walk.done(Step.KEY_VERSION) is not None:
        return False  # a rollback has made it live again, and its state follows later
    # A retirement withdraws it before its state says so, and a reconciliation leaves that to the next rotation.
    spared = (walk is None or walk.source != version) and version in _spared(ledger)
    withdrawn = spared or version in ledger.replayed().retired
    return record.state is KeyState.ARCHIVED or (withdrawn and not needed)


def _spared(ledger: Ledger) -> Iterator[KeyVersion]:
    """The versions that applications need not have since the last reconciliation, as officers signed it."""
    signed = [each.fact for each in history(ledger, EventKind.DATABASE_RECONCILED) if each.fault is None]
    match signed[-1:]:
        case [DatabaseReconciled(primary=primary, in_rows=in_rows, states=states)]:
            yield from set(map(KeyVersion.parse, states)).difference((primary, *in_rows))


def _note_list(pipeline: Pipeline, primary: KeyVersion) -> None:
    """Records that the application's list is written, too: without the lost key nothing tells what it held."""
    if has_key_list(pipeline.tables):
        note_delivery(pipeline.ledger, primary)


def _name_roster(pipeline: Pipeline) -> None:
    """Make a lost key store name the roster again, so that it rejects another roster if the home is lost too.

    Where the database was restored, `reconcile` does so at the end: the present roster may be outdated.
    """
    stored = pipeline.keys.read()
    if stored.owner is None and not divergence(pipeline, stored):
        claim_store(pipeline, stored, tried=True)


def registered_or_rekeyed(ledger: Ledger, version: KeyVersion, material: KeyMaterial) -> KeyRecord | None:
    """The record of a key; of one that the recovered set was rekeyed to, and no audit has yet, as it will be."""
    if (record := record_of(ledger, version)) is not None:
        return record
    last = next(reversed(tuple(entries(ledger, EventKind.DATABASE_RESTORED))), None)
    if last is None or last.facts.get("rekeyed", {}).get(str(version)) != material.fingerprint:
        return None
    return KeyRecord(version, KeyState.ACTIVE, material.fingerprint, last.at)


def _require_registered(ledger: Ledger, version: KeyVersion, material: KeyMaterial) -> KeyRecord:
    record = registered_or_rekeyed(ledger, version, material)
    if record is None:
        raise FingerprintMismatchError(
            f"{version} is not registered, so nothing says whether this key is the right one; restore the database "
            "first, or name a registered version"
        )
    _require_not_destroyed(record)
    if record.fingerprint != material.fingerprint:
        raise FingerprintMismatchError(
            f"the backup holds the key {material.fingerprint[:16]}, but {version} is registered as "
            f"{record.fingerprint[:16]}; nothing was changed, name the backup of that key"
        )
    return record


def _require_not_destroyed(record: KeyRecord | None) -> None:
    if record is not None and record.state is KeyState.DESTROYED:
        raise KeyStoreError(f"{record.version} is destroyed permanently; name another version")


def _require_no_other(stored: StoredKeys, version: KeyVersion, material: KeyMaterial) -> None:
    if version in stored and (found := stored.material(version)) != material:
        raise KeyStoreError(
            f"the key store holds a different key ({found.fingerprint[:16]}) as {version}, which is never overwritten; "
            "move it away, and run this again"
        )


def _store(pipeline: Pipeline, version: KeyVersion, material: KeyMaterial, *, archived: bool, primary: bool) -> None:
    require_signed_key_store(pipeline)
    keys = pipeline.keys
    stored = keys.read()
    if version not in stored.archived:
        stored = keys.add(version, material, stored.revision, archived=archived)
    if stored.material(version) != material:
        raise KeyStoreDamagedError(f"{version} does not read back from the key store as it was stored; check the store")
    if archived and version in stored.live:
        stored = keys.archive(version, stored.revision)
    if primary and stored.primary is None:
        keys.set_primary(version, stored.revision)


@dataclass(frozen=True, slots=True)
class ReadableValues:
    """Values of one table under one version: where their key is; without one they cannot be read.

    Args:
        stored: the key store holds the registered key.
        backups: ``<file> in <place>`` of every intact backup; nothing was decrypted for this.
    """

    table: str
    version: KeyVersion
    values: int
    stored: bool
    backups: tuple[str, ...]

    @property
    def lost(self) -> bool:
        """Whether no key for them is known."""
        return not self.stored and not self.backups


@dataclass(frozen=True, slots=True)
class DumpReadable:
    """A stored database backup, and what of it could be read."""

    name: str
    place: str
    intact: bool
    tables: tuple[ReadableValues, ...]


@dataclass(frozen=True, slots=True)
class RegisteredKey:
    """Where a registered key is, whether values need it or not; `stored` and `backups` as of `ReadableValues`."""

    version: KeyVersion
    state: KeyState
    stored: bool
    backups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LossSurvey:
    """What can and what cannot be read: in the present database, and in each stored backup of it.

    Args:
        keys: every registered key that is not destroyed.
    """

    keys: tuple[RegisteredKey, ...]
    database: tuple[ReadableValues, ...]
    dumps: tuple[DumpReadable, ...]
    problems: tuple[str, ...]


def survey(site: BackupContext) -> LossSurvey:
    """Survey rows by version, keys by store and backup, and dumps by place, without changing or decrypting anything."""
    keys = _Keys(site)
    counts = site.pipeline.inventory.count(site.pipeline.tables)
    database = tuple(
        keys.readable(str(count.table.name), version, number)
        for count in counts
        for version, number in sorted(count.values_by_version.items())
        if number
    )
    dumps = tuple(dump for kept in keys.kept for dump in _dumps(kept, keys))
    return LossSurvey(tuple(keys.registered()), database, dumps, tuple(dict.fromkeys(keys.problems)))


class _Keys:
    """Where each version's registered key is; each looked up once."""

    def __init__(self, site: BackupContext) -> None:
        self.problems: list[str] = []
        self.kept = list(self._read(site))
        registered = site.pipeline.ledger.keys()
        self._registered = {record.version: record for record in registered}
        self._store = self._read_store(site.pipeline.keys)
        self._known: dict[KeyVersion, tuple[bool, tuple[str, ...]]] = {}

    def registered(self) -> Iterator[RegisteredKey]:
        for version, record in sorted(self._registered.items()):
            if record.state is not KeyState.DESTROYED:
                yield RegisteredKey(version, record.state, *self._places(version))

    def readable(self, table: str, version: KeyVersion, values: int) -> ReadableValues:
        return ReadableValues(table, version, values, *self._places(version))

    def _places(self, version: KeyVersion) -> tuple[bool, tuple[str, ...]]:
        if version not in self._known:
            self._known[version] = (self._stored(version), tuple(self._backups(version)))
        return self._known[version]

    def _read(self, site: BackupContext) -> Iterator[KeptSets]:
        for place in site.places:
            try:
                kept = kept_sets(place.with_versions(), site.trust)
            except BackupError as error:
                self.problems.append(str(error))
                continue
            self.problems += [*map(str, kept.refused.values()), *filter(None, [kept.place.older.unexamined])]
            yield kept

    def _read_store(self, keys: OwnedKeys) -> StoredKeys | None:
        try:
            return keys.read()
        except KeyStoreError as error:
            self.problems.append(str(error))
            return None

    def _stored(self, version: KeyVersion) -> bool:
        record = self._registered.get(version)
        if record is None or self._store is None or version not in self._store:
            return False
        try:
            self._store.registered(record)
        except KeyStoreError as error:
            self.problems.append(str(error))
            return False
        return True

    def _backups(self, version: KeyVersion) -> Iterator[str]:
        record = self._registered.get(version)
        for kept in self.kept:
            for copy in (copy for made in kept.sets for copy in made.keys if copy.version == version):
                if (record is None or record.fingerprint == copy.fingerprint) and is_intact(kept.place, copy.file):
                    yield _named(kept.place, copy)


def _dumps(kept: KeptSets, keys: _Keys) -> Iterator[DumpReadable]:
    place = kept.place
    for dump in (dump for made in kept.sets for dump in made.dumps):
        tables = tuple(
            keys.readable(
                str(content.table.name), version, sum(column.get(version, 0) for column in content.values.values())
            )
            for content in dump.tables
            for version in sorted(content.versions)
        )
        yield DumpReadable(dump.file.name, place.description, is_intact(place, dump.file), tables)
