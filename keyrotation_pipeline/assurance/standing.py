"""Which backup counts: the newest set of keys *and* database that every configured place holds whole.

`status`, its `--exit-code` and the check `backup_decrypts` all go by this one definition. Which sets there should be,
and which of them is the newest, is what the audit says: whatever else lies in a place, or is missing there, cannot
change that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyrotation_pipeline.assurance.seals import Seals
from keyrotation_pipeline.errors import ManifestError, UnsignedBackupError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.backups import BackupSet, BackupStanding, stamp_in, stamped_at
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.ports.backup_places import BackupPlace

_AGAIN = "run `keyrotation backup`"


def standing(places: Sequence[BackupPlace], seals: Seals, records: Sequence[KeyRecord]) -> BackupStanding:
    """Look for the newest complete set; large files are looked at by name and size only.

    Args:
        records: every registered key.

    Raises:
        BackupError: a place does not answer.
    """
    names = [frozenset(place.names()) for place in places]
    amiss: tuple[str, ...] = ()
    for manifest in seals.sealed_with_dump:
        looks = [_look(place, there, seals, manifest, records) for place, there in zip(places, names, strict=True)]
        wanting = tuple(sentence for look in looks for sentence in look.wanting)
        if not wanting:
            held = {copy.version for look in looks if look.made for copy in look.made.keys} - _gone(records)
            return BackupStanding(stamped_at(stamp_in(manifest) or ""), manifest, amiss, tuple(sorted(held)))
        # Only of the newest one: that older ones are no longer everywhere is how retention leaves them.
        amiss = amiss or wanting
    return BackupStanding(None, None, amiss)


def uncovered(made: BackupSet, records: Sequence[KeyRecord]) -> Iterator[str]:
    """A sentence for each key that a set should hold, and does not."""
    held = {copy.version: copy.fingerprint for copy in made.keys}
    for record in records:
        was_there = record.state is not KeyState.DESTROYED and record.created_at <= made.made_at
        if was_there and held.get(record.version) != record.fingerprint:
            yield f"{made.name} does not hold the registered key {record.version}; {_AGAIN}"
    for version in made.dump.versions if made.dump else ():
        if version not in held:
            yield f"{made.name} has values under {version}, but no key {version}; {_AGAIN}"


@dataclass(frozen=True, slots=True)
class _Look:
    """A set in one place, and why it does not count there."""

    made: BackupSet | None
    wanting: tuple[str, ...]


def _look(
    place: BackupPlace, there: frozenset[str], seals: Seals, manifest: str, records: Sequence[KeyRecord]
) -> _Look:
    if manifest not in there:
        return _Look(None, (f"{manifest} is not in {place.description}; {_AGAIN}",))
    try:
        made = seals.read(place, manifest)
    except (ManifestError, UnsignedBackupError) as error:
        return _Look(None, (str(error),))
    return _Look(made, (*uncovered(made, records), *_missing(place, there, made, records)))


def _missing(place: BackupPlace, there: frozenset[str], made: BackupSet, records: Sequence[KeyRecord]) -> Iterator[str]:
    destroyed = {copy.file.name for copy in made.keys if copy.version in _gone(records)}
    for file in made.files:
        if file.name not in destroyed and not (file.name in there and place.seems(file)):
            yield f"{file.name} in {place.description} is missing or damaged; {_AGAIN}"


def _gone(records: Sequence[KeyRecord]) -> set[KeyVersion]:
    return {record.version for record in records if record.state is KeyState.DESTROYED}
