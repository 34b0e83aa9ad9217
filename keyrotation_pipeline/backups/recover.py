"""Brings database, configuration and keys back from backups and the recovery key alone: for the day when all is lost.

Whoever owns the place of backups can put anything there, and anybody can encrypt to a public certificate. So in this
order, and nothing of a set is used once something of it does not verify: the signature on its manifest, the size and
hash of each file, each message (encrypted to the recovery key), each key's fingerprint, the content of the
configuration; then the dump is restored without power into a new database, counted, and every value decrypted. Only
then is anything written next to the command, and never over something that is there.

Of a fleet, one run brings the home's own database back, or one member: that is a database alone, with the keys that the
set has for it, and what the home is told of it comes from the member itself.

It may be killed anywhere and run again: what is restored is noted in the home, and every other step may be repeated.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from keyrotation_pipeline.audit.divergence import divergence
from keyrotation_pipeline.backups.catalog import fetch, manifests, read_key
from keyrotation_pipeline.backups.key_loss import registered_or_rekeyed, restore_key
from keyrotation_pipeline.backups.manifest_trust import require_past
from keyrotation_pipeline.backups.restore_checks import MOST_SHOWN, decrypt_all, require_complete
from keyrotation_pipeline.errors import (
    AbsentBackupError,
    AuditError,
    BackupError,
    DamagedBackupError,
    DatabaseExistsError,
    KeyRotationError,
    ManifestError,
    ManifestSchemaError,
    MissingVersionError,
    UnsignedBackupError,
)
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backups import (
    BackupSet,
    DatabaseCopy,
    StoredFile,
)
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.ports.backup_places import BackupPlace, LocalPlace
from keyrotation_pipeline.ports.backups import HandedOver, NewDatabases, RecoveryKey
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.ports.recovery import RecoveredHome, RestoredSet, WrittenFiles
from keyrotation_pipeline.requests.roster import pinned_roster


@dataclass(frozen=True, slots=True)
class RecoverySource:
    """A place of backups, and whose sets count.

    Args:
        accepted: verifies a manifest of the place, given its name, and reads it only then; raises UnsignedBackupError,
            ManifestError.
        trusted: whose signature counts, in one phrase.
    """

    place: BackupPlace
    accepted: Callable[[str], BackupSet]
    trusted: str
    clock: Clock


@dataclass(frozen=True, slots=True)
class FoundSet:
    """The newest set that verifies, and all of it here.

    Args:
        rejected: by the name of its manifest, why each newer set is not used.
        versions: by name, the version of each file of it that was deleted or overwritten.
        dump: of the database that is brought back.
    """

    made: BackupSet
    dump: DatabaseCopy
    configuration: StoredFile
    rejected: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeysHere:
    """The key store next to the new home.

    Args:
        put_back: where each key was put, ``live`` or ``archive``; none where the store is not in files here.
        not_registered: keys of the set that were made after its database was dumped.
        absent: registered keys that a set lacks which was rekeyed, so as to do without them.
        findings: what `reconcile` will name; None: not known, since the key store was not read.
    """

    put_back: Mapping[KeyVersion, str]
    not_registered: tuple[KeyVersion, ...]
    findings: tuple[str, ...] | None
    absent: tuple[KeyVersion, ...] = ()


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery brought back.

    Args:
        restored: the new database.
        keys: the fingerprint of every key of the set.
        files: the configuration.
        not_examined: why deleted and overwritten files of the place were not read, in a sentence; None: they were.
    """

    found: FoundSet
    place: str
    restored: RestoredSet
    keys: Mapping[KeyVersion, str]
    keys_here: KeysHere
    files: WrittenFiles
    not_examined: str | None

    def require_complete(self) -> None:
        """Fail, once everything is brought back, where the database lacks something or a value does not decrypt.

        Raises:
            IncompleteRestoreError, UndecryptableError: as `restore_checks.require_complete`.
        """
        require_complete(self.restored.database, self.restored.failures, self.restored.undecryptable)


def recover(
    source: RecoverySource,
    key: RecoveryKey,
    databases: NewDatabases,
    here: RecoveredHome,
    into: str,
    wanted: str | None,
    report: Report,
    member: str = "",
) -> Recovered:
    """Restore the newest set that verifies into the new database `into`, and everything else into `here`.

    It may be repeated until `here.finish`, which whoever has shown the result calls.

    Args:
        wanted: name of the manifest of another set than the newest.
        member: of a fleet, to restore its database alone; "": the home's own.

    Raises:
        UnsignedBackupError, BackupError: no set verifies, with the sentence of the newest; or one cannot be read now.
        DamagedBackupError, WrongRecipientError, RecoveryKeyError: the recovery key does not open the set.
        MissingVersionError, LostRowsError: the set has no key, or fewer rows than were dumped.
        RequestError: there is a database of that name which no recovery made here.
    """
    with here.workspace() as local:
        found = _newest(source, local, wanted, report, member)
        keys = {copy.version: read_key(local, copy, key) for copy in found.made.keys}
        if not keys and found.dump.versions:  # a home may have none yet
            raise MissingVersionError(f"{found.made.name} has no key; name another set with --set")
        packed = key.decrypt(found.configuration.name, local.read(found.configuration.name))
        here.read_configuration(
            found.configuration.name, packed, sealed=any(each.sealed_by for each in found.made.keys)
        )
        restored = _restored(found, keys, local, key, databases, here, into, report)
    files = WrittenFiles((), (), ()) if member else here.write_configuration()
    keys_here = KeysHere({}, (), None)
    if here.is_new and not member:
        with here.opened(found.made.anchor) as pipeline:
            pipeline.ledger.append(Note(EventKind.DATABASE_RESTORED, _facts(source, found, restored, keys)))
            keys_here = _keys_here(pipeline, here, source, found, keys)
    fingerprints = {version: material.fingerprint for version, material in keys.items()}
    place = source.place
    return Recovered(found, place.description, restored, fingerprints, keys_here, files, place.older.unexamined)


def _newest(source: RecoverySource, local: LocalPlace, wanted: str | None, report: Report, member: str) -> FoundSet:
    """The newest set that verifies, by the time that its signed manifest names, with all of its files in `local`.

    What cannot be read now may be a newer one, so no older set is taken in its place unless `wanted` names it.
    """
    rejected: dict[str, KeyRotationError] = {}
    names = {*source.place.names(), *source.place.older.deleted}
    for name in manifests(each for each in names if wanted in {None, each}):
        try:
            made = source.accepted(name)
            if (found := _restorable(made, rejected, member, by_name=wanted is not None)) is not None:
                require_past(made, source.clock)
                _fetch_all(source.place, found, local, report)
                return replace(found, versions=source.place.older.used_by(made.names))
        except (UnsignedBackupError, DamagedBackupError, AbsentBackupError) as error:
            rejected[name] = error
        except BackupError as error:
            if isinstance(error, ManifestError) and not isinstance(error, ManifestSchemaError):
                rejected[name] = error
                continue
            raise BackupError(f"{error}; run the same again, or name an older set with --set") from None
    if rejected:
        raise next(iter(rejected.values()))
    named, options = (f" of the name {wanted}", "--from or --set") if wanted else ("", "--from")
    where = f"{source.place.description}{source.place.older.caveat}"
    what = f"database {member}" if member else "a database"
    raise BackupError(f"no backup of {what}{named} is in {where}; correct {options}")


def _restorable(
    made: BackupSet, rejected: Mapping[str, KeyRotationError], member: str, *, by_name: bool
) -> FoundSet | None:
    """The set, if the database can be restored from it; a set that was made from another one only by its name."""
    dump = made.dump_of(member)
    if dump is None or made.configuration is None or (made.made_from is not None and not by_name):
        return None
    why = {name: str(error) for name, error in rejected.items()}
    return FoundSet(made, dump, made.configuration, why)


def _fetch_all(place: BackupPlace, found: FoundSet, local: LocalPlace, report: Report) -> None:
    """Copy what is needed of a set, the small files first; removes them if one is not what its manifest says."""
    needed = [*(copy.file for copy in found.made.keys), found.configuration, found.dump.file]
    files = sorted(needed, key=lambda file: file.size_bytes)
    try:
        for number, file in enumerate(files):
            size = f"{file.size_bytes:,} bytes"
            report(Progress(None, file.name, number, len(files), "files", f"copied from {place.description}, {size}"))
            fetch(place, file, local.path(file.name))
    except BaseException:
        for file in files:
            local.remove(file.name)
        raise


def _restored(
    found: FoundSet,
    keys: Mapping[KeyVersion, KeyMaterial],
    local: LocalPlace,
    key: RecoveryKey,
    databases: NewDatabases,
    here: RecoveredHome,
    into: str,
    report: Report,
) -> RestoredSet:
    """Restore the dump, count it against its manifest and decrypt every value; or find that an earlier run did."""
    name = found.dump.file.name
    try:
        with databases.restored(into, found.dump, local.path(name), key) as restored:
            read = decrypt_all(restored, found.dump, KeyRing.for_reading(keys), report)
            failures = restored.failures

            def as_set(done: HandedOver) -> RestoredSet:
                file = f"{into}-for-superuser.sql" if done.for_superuser else None
                wrong = (*failures, *done.differences)
                return RestoredSet(
                    found.made.name, into, found.dump.rows, read.by_table(), read.undecryptable, read.unencrypted,
                    wrong, done.left_out, file, (*done.undumped, *found.dump.undumped_of_server),
                )  # fmt: skip

            # Noted before the database is complete: until then another run begins the restore again.
            return as_set(restored.hand_over(lambda done: here.note_restored(as_set(done), done.for_superuser)))
    except DatabaseExistsError:
        earlier = here.restored
        if earlier is None or (earlier.manifest, earlier.database) != (found.made.name, into):
            raise
        return earlier


def _facts(
    source: RecoverySource, found: FoundSet, restored: RestoredSet, keys: Mapping[KeyVersion, KeyMaterial]
) -> Mapping[str, Any]:
    # The audit in a rekeyed dump is older than the key that its values are under.
    newer = keys if found.made.made_from is not None else {}
    return {
        "rekeyed": {str(version): material.fingerprint for version, material in newer.items()},
        "database": restored.database,
        "manifest": found.made.name,
        "trusted": source.trusted,
        "dump": found.dump.file.name,
        "made_at": found.made.made_at.isoformat(),
        "place": source.place.description,
        "versions": dict(found.versions),
        "rows": dict(restored.rows),
        "values_decrypted": dict(restored.values),
        "undecryptable": list(restored.undecryptable[:MOST_SHOWN]),
        "unencrypted": dict(restored.unencrypted),
        "failures": list(restored.failures),
        "left_out": list(restored.left_out),
        "undumped": list(restored.undumped),
    }


# Where every key is in one of these, as those of other libraries are, the audit knows of no primary yet.
_NEVER_PROMOTED = frozenset({KeyState.PRE_ACTIVATION, KeyState.ARCHIVED, KeyState.DESTROYED})


def _keys_here(
    pipeline: Pipeline,
    here: RecoveredHome,
    source: RecoverySource,
    found: FoundSet,
    keys: Mapping[KeyVersion, KeyMaterial],
) -> KeysHere:
    """Put the keys into a store in files, each where the restored audit has it; one in a cloud is not touched."""
    unknown = tuple(each for each, key in keys.items() if registered_or_rekeyed(pipeline.ledger, each, key) is None)
    records = pipeline.ledger.keys() if found.made.made_from is not None else ()
    absent = tuple(
        each.version for each in records if each.state is not KeyState.DESTROYED and each.version not in keys
    )
    if not here.holds_keys:
        return KeysHere({}, unknown, None, absent)
    # First: nothing is made the primary of a store that holds keys and does not say whose.
    stored, registered = pipeline.keys.read(), pipeline.ledger.keys()
    if stored.primary is None and not unknown and all(each.state in _NEVER_PROMOTED for each in registered):
        pipeline.keys.set_primary(PLAINTEXT, stored.revision)
    files = {copy.version: copy.file.name for copy in found.made.keys}
    put_back = {
        version: restore_key(pipeline, version, material, f"{files[version]} in {source.place.description}").place
        for version, material in keys.items()
        if version not in unknown
    }
    with suppress(AuditError):  # which the divergence then names
        pinned_roster(pipeline)  # which stores it in the home
    return KeysHere(put_back, unknown, divergence(pipeline, pipeline.keys.read()).findings, absent)
