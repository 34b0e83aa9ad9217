"""The backup sets of a place: listing, copying and reading them, and what lies there and is no whole set of ours."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.backups.versions import first_verified
from keyrotation_pipeline.errors import (
    BackupError,
    BrokenSealError,
    DamagedBackupError,
    FingerprintMismatchError,
    InvalidKeyError,
    KeyRotationError,
    ManifestError,
    MissingVersionError,
    UnsignedBackupError,
    VersionRightError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.seal import open_key
from keyrotation_pipeline.model.audit import counted, utc_minute
from keyrotation_pipeline.model.backup_events import BackupRekeyIntended
from keyrotation_pipeline.model.backups import (
    BackupSet,
    DatabaseCopy,
    KeyCopy,
    StoredFile,
    free_stamps,
    in_order,
    is_dump,
    is_manifest,
    manifest_name,
    pipeline_in,
    signature_name,
    stamp_in,
    stamped_at,
)
from keyrotation_pipeline.ports.backup_places import BackupPlace, LocalPlace
from keyrotation_pipeline.ports.backups import (
    ConfigurationFiles,
    DatabaseDumps,
    DumpRestorer,
    KeyFiles,
    MemberSource,
    RecoveryKey,
)
from keyrotation_pipeline.ports.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class KeptSets:
    """The sets of one place, and its other files that are named like a manifest of ours.

    Args:
        sets: newest first, by the audit's sequence.
        refused: by name, newest first: why it is damaged, unreadable, or not known to be ours.
        names: of every file in the place; where its versions are read, of deleted ones too.
    """

    place: BackupPlace
    sets: tuple[BackupSet, ...]
    refused: Mapping[str, KeyRotationError]
    names: frozenset[str]

    @property
    def dumps(self) -> tuple[tuple[BackupSet, DatabaseCopy], ...]:
        """Each dump that is there, with its set."""
        return tuple((each, dump) for each in self.sets for dump in each.dumps if dump.file.name in self.names)

    @property
    def newest(self) -> BackupSet | None:
        """The newest set that has a dump of the home's own database."""
        return next((each for each in self.sets if each.dump is not None), None)

    @property
    def recent(self) -> tuple[BackupSet, ...]:
        """That set, and the keys that were backed up since."""
        return self.sets if self.newest is None else self.sets[: self.sets.index(self.newest) + 1]


def kept_sets(place: BackupPlace, trust: ManifestTrust) -> KeptSets:
    """The stored sets of a place, by its manifests; those of other pipelines are left out.

    Raises:
        BackupError: the place cannot be read.
    """
    sets, refused, names = [], dict[str, KeyRotationError](), {*place.names(), *place.older.deleted}
    for name in filter(trust.knows, manifests(names)):
        try:
            sets.append(trust.read(place, name))
        except (UnsignedBackupError, ManifestError, VersionRightError) as error:
            # What somebody removed and is not ours is no problem; that a right is missing, the place says.
            if name not in place.older.deleted:
                refused[name] = error
        except BackupError as error:  # an unreadable one does not hide the others
            refused[name] = error
    return KeptSets(place, tuple(sorted(sets, key=trust.order, reverse=True)), refused, frozenset(names))


def sets_of(place: BackupPlace, trust: ManifestTrust) -> Iterator[BackupSet]:
    """The sets of a place, newest first by name, read lazily.

    Sets that are damaged, not ours, dated in the future, or deleted and not to be read by this account are skipped.

    Raises:
        BackupError: the place cannot be read.
    """
    for name in filter(trust.knows, manifests({*place.names(), *place.older.deleted})):
        with suppress(ManifestError, UnsignedBackupError, VersionRightError):
            yield trust.read(place, name)


@contextmanager
def new_stamp(local: LocalPlace, made_at: datetime, pipeline: str) -> Iterator[str]:
    """A stamp for a set that is made meanwhile: that of no other set, and of no other process."""
    for stamp in free_stamps(made_at, pipeline):
        with local.claiming(manifest_name(stamp)) as is_ours:
            if is_ours and stamp not in map(stamp_in, local.names()):
                yield stamp
                return


def copy_set(local: LocalPlace, place: BackupPlace, made: BackupSet) -> None:
    """Copy the local files of a set to another place, its manifest last.

    Raises:
        BackupError: a file cannot be written there, or reads back differently.
    """
    there = frozenset(local.names())
    for file in made.files:
        if file.name in there:
            place.put(file.name, local.path(file.name))
    for name in (signature_name(made.name), made.name):
        place.put(name, local.path(name))


def is_intact(place: BackupPlace, file: StoredFile) -> bool:
    """Whether a file exists and its whole content matches its manifest."""

    def intact() -> bool:
        require_same(place, file, file.size_bytes, place.digest(file))
        return True

    with suppress(BackupError, DamagedBackupError):
        return first_verified(place, file.name, intact, file.size_bytes)
    return False


def manifests(names: Iterable[str]) -> list[str]:
    """Those of these names that are of manifests, newest first."""
    return sorted(filter(is_manifest, names), key=lambda name: in_order(stamp_in(name) or ""), reverse=True)


@dataclass(frozen=True, slots=True)
class Objectives:
    """The recovery objectives: the longest recovery (RTO) and the oldest newest backup (RPO), in seconds."""

    rto_seconds: int
    rpo_seconds: int


@dataclass(frozen=True, slots=True)
class BackupContext:
    """The rotation's ports, and where its backups are.

    Args:
        local: the directory in which sets are made.
        key_files: makes files of keys in it; `dumps` those of databases, `configurations` those of the rest.
        trust: signs manifests, and verifies that they are ours.
        offsite: further places, each of which gets a copy.
        recipients: how many can decrypt a backup.
        keep_local_days: local files older than this go when a newer one is verified.
        members: opens each member of a fleet, by name, to be dumped; raises KeyRotationError, which names it.
    """

    pipeline: Pipeline
    local: LocalPlace
    key_files: KeyFiles
    trust: ManifestTrust
    offsite: tuple[BackupPlace, ...]
    dumps: DatabaseDumps
    configurations: ConfigurationFiles
    restorer: DumpRestorer
    recipients: int
    keep_local_days: int
    objectives: Objectives
    members: Mapping[str, Callable[[], MemberSource]] = field(default_factory=dict)

    @property
    def places(self) -> tuple[BackupPlace, ...]:
        """Every place, in the order that a recovery uses."""
        return (*self.offsite, self.local)

    def kept(self) -> tuple[KeptSets, ...]:
        """The sets of every place.

        Raises:
            BackupError: a place cannot be read.
        """
        return tuple(kept_sets(place, self.trust) for place in self.places)


def remove_unfinished(site: BackupContext) -> tuple[str, ...]:
    """Remove local files of sets that never got a manifest, which nobody could verify; only under the lock of backups.

    Returns:
        Their names.
    """
    names = site.local.names()
    begun = {each.manifest for each in recorded(site.pipeline.ledger, BackupRekeyIntended)}
    # A set whose manifest was lost later is still one, by the audit.
    stamps = {stamp_in(manifest) for manifest in begun - {*names, *site.trust.names}}
    rekeyed = tuple(name for name in names if (stamp_in(name.removesuffix(".sig")) or "") in stamps)
    # The keys next to a dump stay: `restore-key --from` reads one without a manifest.
    gone = tuple(dict.fromkeys((*rekeyed, *begun_dumps(names, site.trust))))
    for name in gone:
        site.local.remove(name)
    return gone


_USE_ANOTHER = "use another copy or an older backup"


def fetch(place: BackupPlace, file: StoredFile, target: Path) -> None:
    """Copy a file from a place and check that it is the one that the manifest names.

    Raises:
        BackupError: the file is missing.
        DamagedBackupError: it is truncated, corrupt, or larger than it may be.
    """

    def fetched() -> None:
        place.fetch(file, target)
        with target.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        try:
            require_same(place, file, target.stat().st_size, sha256)
        except DamagedBackupError:
            target.unlink()  # for another version of it
            raise

    first_verified(place, file.name, fetched, file.size_bytes)


def read_key(place: BackupPlace, copy: KeyCopy, key: RecoveryKey) -> KeyMaterial:
    """Read the key in a backup, and check its length and fingerprint against the manifest.

    Raises:
        BackupError: the file is missing.
        DamagedBackupError, WrongRecipientError, FingerprintMismatchError: it is not the key of the manifest.
    """

    def read() -> bytes:
        message = place.read(copy.file.name, copy.file.size_bytes)
        require_same(place, copy.file, len(message), hashlib.sha256(message).hexdigest())
        return message

    message = first_verified(place, copy.file.name, read, copy.file.size_bytes)
    material = key_in(copy.file.name, copy.version, message, key)
    if material.fingerprint != copy.fingerprint:
        raise FingerprintMismatchError(
            f"{copy.file.name} holds the key {material.fingerprint[:16]}, but its manifest says "
            f"{copy.fingerprint[:16]}; {_USE_ANOTHER}"
        )
    return material


def missing_from_store(dump: DatabaseCopy, version: KeyVersion) -> MissingVersionError:
    """The error for a dump that needs a key which the key store does not have."""
    return MissingVersionError(
        f"{dump.file.name} needs the key {version}, which is not in the key store; put it back with `keyrotation "
        f"restore-key {version}` first"
    )


def key_in(name: str, version: KeyVersion, message: bytes, key: RecoveryKey) -> KeyMaterial:
    """The key that an encrypted file holds, as ``gpg --decrypt`` would print it; opened, if it is sealed.

    Raises:
        DamagedBackupError, WrongRecipientError: it cannot be decrypted, or the content is not a key of 32 bytes.
        KeyStoreUnavailableError: it is sealed, and what opens it refuses or does not answer.
    """
    try:
        return open_key(version, key.decrypt(name, message).decode("ascii"))
    except BrokenSealError as error:
        raise DamagedBackupError(f"{name} {error}; {_USE_ANOTHER}") from None
    except (InvalidKeyError, UnicodeDecodeError):
        pass
    raise DamagedBackupError(f"{name} decrypts, but not to the base64 of 32 bytes, so it holds no key; {_USE_ANOTHER}")


def require_same(place: BackupPlace, file: StoredFile, size_bytes: int, sha256: str) -> None:
    """Refuse a file that is not the one that its manifest names.

    Raises:
        DamagedBackupError: says whether it is cut off or altered.
    """
    if sha256 == file.sha256:
        return
    if size_bytes < file.size_bytes:
        raise DamagedBackupError(
            f"{file.name} in {place.description} is truncated: {size_bytes:,} of {file.size_bytes:,} bytes; "
            f"{_USE_ANOTHER}"
        )
    raise DamagedBackupError(
        f"{file.name} in {place.description} is corrupt: its SHA-256 is not the one in its manifest; {_USE_ANOTHER}"
    )


# Whoever writes to a place can name as many manifests like ours as they want; each one costs up to two requests.
MOST_READ = 20


def unknown_sets(place: BackupPlace, names: Collection[str], trust: ManifestTrust) -> Iterator[str]:
    """A sentence for each pipeline whose sets are in a place and that is not ours.

    Args:
        names: of every file in the place.

    Raises:
        BackupError: the place does not answer.
    """
    found: dict[str, list[str]] = defaultdict(list)
    left = MOST_READ
    for name in manifests(names):
        if name in trust.names:
            continue
        if not trust.knows(name):
            found[f"of the pipeline {pipeline_in(stamp_in(name) or '')}, which is unknown"].append(name)
        elif left:
            left -= 1
            if not _is_signed(place, name, trust):
                found["named like ours, which no key of ours has signed"].append(name)
    for whose, sets in found.items():
        yield (
            f"{place.description} has {counted(len(sets), 'set')} {whose} (newest: {sets[0]}); if another "
            "pipeline writes there, give it a directory or [backup.s3] prefix of its own; else somebody forges "
            "backups: run `keyrotation incident open`"
        )


def _is_signed(place: BackupPlace, name: str, trust: ManifestTrust) -> bool:
    try:
        trust.read(place, name)
    except UnsignedBackupError:
        return False
    except BackupError:  # damaged, or of the future: whoever wants to use it is told
        return True
    return True


def begun_dumps(names: Collection[str], trust: ManifestTrust) -> tuple[str, ...]:
    """Those dumps of ours among these names that have no manifest there, and that the audit never had one of."""
    found = []
    for name in filter(is_dump, names):
        manifest = manifest_name(stamp_in(name) or "")
        if manifest not in names and manifest not in trust.names and trust.knows(manifest):
            found.append(name)
    return tuple(found)


def interrupted(place: BackupPlace, names: Collection[str], trust: ManifestTrust, since: str | None) -> Iterator[str]:
    """A sentence for each backup that was begun in a place, after a set, and never got a manifest.

    Args:
        since: that set's manifest; None: there is none.
    """
    after = in_order(stamp_in(since or "") or "")
    for stamp in dict.fromkeys(stamp_in(dump) or "" for dump in begun_dumps({*names, *place.unfinished()}, trust)):
        if in_order(stamp) > after:
            yield (
                f"the backup of {utc_minute(stamped_at(stamp))} was begun in {place.description} and not "
                "finished; unless it is still under way, run `keyrotation backup`, which makes a whole one"
            )
