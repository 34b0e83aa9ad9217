"""Finds the newest complete backup, of keys *and* database in every place, and whether one is due."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.errors import ManifestError, UnsignedBackupError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.backups import BackupSet, BackupStanding, stamp_in, stamped_at
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.requests import RequestStatus, Walk
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.pipeline import Pipeline

_AGAIN = "run `keyrotation backup`"


def standing(places: Sequence[BackupPlace], trust: ManifestTrust, records: Sequence[KeyRecord]) -> BackupStanding:
    """Find the newest complete set; large files are checked by name and size only.

    Args:
        records: every registered key.

    Raises:
        BackupError: a place does not answer.
    """
    names = [frozenset(place.names()) for place in places]
    problems: tuple[str, ...] = ()
    for manifest in trust.sealed_with_dump:
        looks = [_check(place, there, trust, manifest, records) for place, there in zip(places, names, strict=True)]
        wanting = tuple(sentence for look in looks for sentence in look.wanting)
        if not wanting:
            held = {copy.version for look in looks if look.made for copy in look.made.keys} - _gone(records)
            return BackupStanding(stamped_at(stamp_in(manifest) or ""), manifest, problems, tuple(sorted(held)))
        # Only of the newest one: retention removes older ones from some places.
        problems = problems or wanting
    return BackupStanding(None, None, problems)


def uncovered(made: BackupSet, records: Sequence[KeyRecord]) -> Iterator[str]:
    """A sentence for each key that a set should hold but does not."""
    held = {copy.version: copy.fingerprint for copy in made.keys}
    for record in records:
        was_there = record.state is not KeyState.DESTROYED and record.created_at <= made.made_at
        if was_there and held.get(record.version) != record.fingerprint:
            yield f"{made.name} does not hold the registered key {record.version}; {_AGAIN}"
    for version in made.dump.versions if made.dump else ():
        if version not in held:
            yield f"{made.name} has values under {version}, but no key {version}; {_AGAIN}"


@dataclass(frozen=True, slots=True)
class _Checked:
    """A set in one place, and why it is not complete there."""

    made: BackupSet | None
    wanting: tuple[str, ...]


def _check(
    place: BackupPlace,
    there: frozenset[str],
    trust: ManifestTrust,
    manifest: str,
    records: Sequence[KeyRecord],
) -> _Checked:
    if manifest not in there:
        return _Checked(None, (f"{manifest} is not in {place.description}; {_AGAIN}",))
    try:
        made = trust.read(place, manifest)
    except (ManifestError, UnsignedBackupError) as error:
        return _Checked(None, (str(error),))
    return _Checked(made, (*uncovered(made, records), *_missing(place, there, made, records)))


def _missing(place: BackupPlace, there: frozenset[str], made: BackupSet, records: Sequence[KeyRecord]) -> Iterator[str]:
    destroyed = {copy.file.name for copy in made.keys if copy.version in _gone(records)}
    for file in made.files:
        if file.name not in destroyed and not (file.name in there and place.probably_holds(file)):
            yield f"{file.name} in {place.description} is missing or damaged; {_AGAIN}"


def _gone(records: Sequence[KeyRecord]) -> set[KeyVersion]:
    return {record.version for record in records if record.state is KeyState.DESTROYED}


# Dagster, or the process that rotated, makes it within this time.
EXPECTED_WITHIN = timedelta(hours=1)


def last_finished(pipeline: Pipeline) -> tuple[Walk, datetime] | None:
    """The last finished rotation or rollback, and when it finished."""
    walks = (each for each in pipeline.ledger.requests() if isinstance(each, Walk))
    finished = [(each, each.finished_at) for each in walks if each.status is RequestStatus.FINISHED]
    return max(((each, at) for each, at in finished if at is not None), key=lambda pair: pair[1], default=None)


def is_covered(finished_at: datetime, begun_at: datetime | None) -> bool:
    """Whether a backup was started after the rotation finished; names of sets have whole seconds only."""
    return begun_at is not None and begun_at >= finished_at.replace(microsecond=0)


def was_backed_up(pipeline: Pipeline, finished_at: datetime) -> bool:
    """Whether the audit has a complete backup that was started since; no place is read."""
    made = (each.facts for each in entries(pipeline.ledger, EventKind.BACKUP_MADE))
    return any(facts.get("dump") and is_covered(finished_at, _begun_at(facts.get("made_at"))) for facts in made)


def backup_lights(pipeline: Pipeline, last: datetime | None, now: datetime) -> tuple[list[str], list[str]]:
    """The red and amber sentences, where the backup after the last rotation is not complete in every place.

    It is amber while it is expected, and red once it failed or an hour has passed.

    Args:
        last: when the newest complete set was started; None: there is none.
    """
    finished = last_finished(pipeline)
    if finished is None or is_covered(finished[1], last):
        return [], []
    walk, at = finished
    sentence = (
        f"{walk.action} {walk.id} to {walk.target} finished {at:%Y-%m-%d %H:%M} UTC, and no backup of keys and "
        "database since then is complete in every place; run `keyrotation backup`"
    )
    failed = any(each.at >= at for each in entries(pipeline.ledger, EventKind.BACKUP_INCOMPLETE))
    return ([sentence], []) if failed or now - at > EXPECTED_WITHIN else ([], [sentence])


def _begun_at(text: object) -> datetime | None:
    return None if text is None else datetime.fromisoformat(str(text))
