"""The sets of a place: written, copied to another place, and read back by their manifests."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from keyrotation_pipeline.assurance.seals import Seals
from keyrotation_pipeline.errors import BackupError, KeyRotationError, ManifestError, UnsignedBackupError
from keyrotation_pipeline.model.backups import BackupSet, StoredFile, in_order, is_manifest, signature_name, stamp_in
from keyrotation_pipeline.ports.backups import BackupPlace, LocalPlace


@dataclass(frozen=True, slots=True)
class KeptSets:
    """The sets of one place, newest first, and what else lies there under the name of a manifest.

    Args:
        refused: by name, newest first: why it is damaged, or not known to be ours.
    """

    place: BackupPlace
    sets: tuple[BackupSet, ...]
    refused: Mapping[str, KeyRotationError]

    @property
    def newest(self) -> BackupSet | None:
        """The newest set that has a dump."""
        return next((each for each in self.sets if each.dump is not None), None)

    @property
    def recent(self) -> tuple[BackupSet, ...]:
        """The newest set that has a dump, and the keys that were backed up since."""
        return tuple(each for each in self.sets if self.newest is None or each.made_at >= self.newest.made_at)


def kept_sets(place: BackupPlace, seals: Seals) -> KeptSets:
    """What a place keeps, by its manifests.

    Raises:
        BackupError: the place cannot be read.
    """
    sets, refused = [], {}
    for name in _manifests(place):
        try:
            sets.append(seals.read(place, name))
        except (ManifestError, UnsignedBackupError) as error:
            refused[name] = error
    return KeptSets(place, tuple(sets), refused)


def sets_of(place: BackupPlace, seals: Seals) -> Iterator[BackupSet]:
    """The sets of a place, newest first, read as they are asked for; what is damaged, or not ours, is passed over.

    Raises:
        BackupError: the place cannot be read.
    """
    for name in _manifests(place):
        with suppress(ManifestError, UnsignedBackupError):
            yield seals.read(place, name)


def copy_set(local: LocalPlace, place: BackupPlace, made: BackupSet) -> None:
    """Put a set of the local place into another one, its manifest last there, too.

    Raises:
        BackupError: a file cannot be written there, or reads back differently.
    """
    for file in made.files:
        place.put(file.name, local.path(file.name))
    for name in (signature_name(made.name), made.name):
        place.put(name, local.path(name))


def is_intact(place: BackupPlace, file: StoredFile) -> bool:
    """Whether a file is there and reads, to its end, as its manifest says."""
    with suppress(BackupError):
        return place.digest(file.name) == file.sha256
    return False


def _manifests(place: BackupPlace) -> list[str]:
    """Names of the manifests, newest first."""
    names = [name for name in place.names() if is_manifest(name)]
    return sorted(names, key=lambda name: in_order(stamp_in(name) or ""), reverse=True)
