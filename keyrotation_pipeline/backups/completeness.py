"""Finds the newest complete backup, of keys *and* database in every place, whether one is due, and what may go.

Local files older than their retention are removed once a newer one of the same is verified. Where backups also go to
other places, a file is removed only when it and the newer one are there: what was made while a bucket did not answer
stays until it is uploaded.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.backups.catalog import BackupContext, interrupted, is_intact, sets_of, unknown_sets
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.errors import BackupError, ManifestError, UnsignedBackupError, VersionRightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind, Note, utc_minute
from keyrotation_pipeline.model.backups import (
    BackupSet,
    BackupStatus,
    StoredFile,
    signature_name,
    stamp_in,
    stamped_at,
)
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.requests import RequestStatus, Walk
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.ledger import Ledger

_AGAIN = "run `keyrotation backup`"


def backup_status(places: Sequence[BackupPlace], trust: ManifestTrust, records: Sequence[KeyRecord]) -> BackupStatus:
    """Find the newest complete set that is visible; large files are checked by name and size only.

    Args:
        records: every registered key.

    Raises:
        BackupError: a place does not answer.
    """
    every = [place.with_versions() for place in places]
    names = [frozenset(place.names()) for place in every]
    unknown = tuple(
        message for place, there in zip(places, names, strict=True) for message in unknown_sets(place, there, trust)
    )
    found, problems, changed = BackupStatus(None), tuple[str, ...](), tuple[str, ...]()
    for manifest in trust.sealed_with_dump:
        if problems and not all(manifest in there for there in names):
            continue  # an older one counts only where it is visible
        looks = [_check(place, there, trust, manifest, records) for place, there in zip(every, names, strict=True)]
        wanting = tuple(message for _, missing in looks for message in missing)
        if not wanting:
            held = {copy.version for made, _ in looks if made for copy in made.keys} - _gone(records)
            found = BackupStatus(stamped_at(stamp_in(manifest) or ""), manifest, versions=tuple(sorted(held)))
            break
        # Only of the newest one: retention removes older ones from some places.
        if not problems:
            problems, changed = wanting, tuple(_changed(every, looks, trust, manifest, records))
    begun = _interrupted(places, names, trust, found.manifest)
    unexamined = tuple(place.older.unexamined for place in every if place.older.unexamined is not None)
    return replace(
        found,
        problems=(*problems, *begun),
        unknown=unknown,
        changed=changed,
        unexamined=unexamined,
        places=tuple(place.description for place in every),
    )


def _changed(
    places: Sequence[BackupPlace],
    looks: Sequence[tuple[BackupSet | None, tuple[str, ...]]],
    trust: ManifestTrust,
    manifest: str,
    records: Sequence[KeyRecord],
) -> Iterator[str]:
    """A sentence for each place that held a set completely, and does not now."""
    for place, (made, missing) in zip(places, looks, strict=True):
        # What the set itself never had, such as a lost key, nobody took away.
        of_itself = set() if made is None else set(uncovered(made, records, trust))
        if not of_itself.issuperset(missing) and trust.was_stored(manifest, place.description):
            yield (
                f"the newest backup {manifest} was complete in {place.description} and is not any more; "
                f"{_AGAIN}, and find out who changed it"
            )


def _interrupted(
    places: Sequence[BackupPlace], names: Sequence[frozenset[str]], trust: ManifestTrust, since: str | None
) -> tuple[str, ...]:
    return tuple(
        message
        for place, there in zip(places, names, strict=True)
        for message in interrupted(place, there, trust, since)
    )


def uncovered(made: BackupSet, records: Sequence[KeyRecord], trust: ManifestTrust) -> Iterator[str]:
    """A sentence for each key, and each member of a fleet, that a set should hold but does not."""
    held = {copy.version: copy.fingerprint for copy in made.keys}
    for record in records:
        was_there = record.state is not KeyState.DESTROYED and record.created_at <= made.made_at
        if was_there and held.get(record.version) != record.fingerprint:
            yield f"{made.name} does not hold the registered key {record.version}; {_AGAIN}"
    if made.keyless is not None:
        yield f"{made.name} has values under {made.keyless}, but no such key; {_AGAIN}"
    if made.dump is not None:
        yield from (f"{made.name} has {each}; {_AGAIN}" for each in trust.lacking(made))


def _check(
    place: BackupPlace,
    there: frozenset[str],
    trust: ManifestTrust,
    manifest: str,
    records: Sequence[KeyRecord],
) -> tuple[BackupSet | None, tuple[str, ...]]:
    """A set in one place, and why it is not complete there."""
    if manifest not in there | place.older.deleted:
        return None, (_absent(place, there, manifest),)
    try:
        made = trust.read(place, manifest)
    except (ManifestError, UnsignedBackupError, VersionRightError) as error:
        return None, (str(error),)
    return made, (*_hidden(place, made), *uncovered(made, records, trust), *_missing(place, there, made, records))


def _hidden(place: BackupPlace, made: BackupSet) -> Iterator[str]:
    """That the manifest or its signature is deleted or overwritten, and which version has it."""
    for name, version in place.older.used_by(made.names).items():
        yield f"{name} is deleted or overwritten in {place.description}, which keeps version {version} of it; {_AGAIN}"


def _absent(place: BackupPlace, there: frozenset[str], manifest: str) -> str:
    """That a manifest, which is uploaded last, is not in a place; and whether other files of its set are."""
    if stamp_in(manifest) not in map(stamp_in, {*there, *place.unfinished()}):
        return f"{manifest} is not in {place.description}; {_AGAIN}"
    return (
        f"{manifest} is not in {place.description}, but part of its set is: an interrupted upload, or somebody "
        f"removed it; unless a backup is under way, {_AGAIN}"
    )


def _missing(place: BackupPlace, there: frozenset[str], made: BackupSet, records: Sequence[KeyRecord]) -> Iterator[str]:
    destroyed = {copy.file.name for copy in made.keys if copy.version in _gone(records)}
    for file in made.files:
        if file.name not in destroyed and not (file.name in there and place.probably_holds(file)):
            yield f"{file.name} in {place.description} is missing or damaged; {_AGAIN}"


def _gone(records: Sequence[KeyRecord]) -> set[KeyVersion]:
    return {record.version for record in records if record.state is KeyState.DESTROYED}


# Dagster, or the process that rotated, makes it within this time.
EXPECTED_WITHIN = timedelta(hours=1)


def last_finished(ledger: Ledger) -> tuple[Walk, datetime] | None:
    """The last finished rotation or rollback, and when it finished."""
    walks = (each for each in ledger.requests() if isinstance(each, Walk))
    finished = [(each, each.finished_at) for each in walks if each.status is RequestStatus.FINISHED]
    return max(((each, at) for each, at in finished if at is not None), key=lambda pair: pair[1], default=None)


def is_covered(finished_at: datetime, begun_at: datetime | None) -> bool:
    """Whether a backup was started after the rotation finished; names of sets have whole seconds only."""
    return begun_at is not None and begun_at >= finished_at.replace(microsecond=0)


def was_backed_up(ledger: Ledger, finished_at: datetime) -> bool:
    """Whether the audit has a complete backup that was started since; no place is read."""
    made = (each.facts for each in entries(ledger, EventKind.BACKUP_MADE))
    return any(facts.get("dump") and is_covered(finished_at, _begun_at(facts.get("made_at"))) for facts in made)


def backup_lights(ledger: Ledger, last: datetime | None, now: datetime) -> tuple[list[str], list[str]]:
    """The red and amber sentences, where the backup after the last rotation is not complete in every place.

    It is amber while it is expected, and red once it failed or an hour has passed.

    Args:
        last: when the newest complete set was started; None: there is none.
    """
    finished = last_finished(ledger)
    if finished is None or is_covered(finished[1], last):
        return [], []
    walk, at = finished
    message = (
        f"{walk.action} {walk.id} to {walk.target} finished {utc_minute(at)}, and no backup of keys and "
        "database since then is complete in every place; run `keyrotation backup`"
    )
    failed = any(each.at >= at for each in entries(ledger, EventKind.BACKUP_INCOMPLETE))
    return ([message], []) if failed or now - at > EXPECTED_WITHIN else ([], [message])


def _begun_at(text: object) -> datetime | None:
    return None if text is None else datetime.fromisoformat(str(text))


@dataclass(frozen=True, slots=True)
class LocalCopy:
    """One encrypted file of the local place.

    Args:
        copy_of: a key (version and fingerprint), a database, or the configuration.
        order: sort key of copies of the same, the newest last.
    """

    copy_of: tuple[str, ...]
    order: Any
    made_at: datetime
    file: StoredFile


def expired(
    copies: Iterable[LocalCopy],
    limit: datetime,
    *,
    is_whole: Callable[[StoredFile], bool],
    is_elsewhere: Callable[[StoredFile], bool],
) -> tuple[str, ...]:
    """Apply the rule: names of the files that may be removed.

    Args:
        limit: what was made before it may be removed.
        is_whole: whether the local file matches its manifest.
        is_elsewhere: whether every other configured place has it.
    """
    groups: dict[tuple[str, ...], list[LocalCopy]] = defaultdict(list)
    for each in copies:
        groups[each.copy_of].append(each)
    gone: set[str] = set()
    for group in groups.values():
        is_superseded = False
        for each in sorted(group, key=lambda one: one.order, reverse=True):
            if is_superseded:
                if each.made_at < limit and is_elsewhere(each.file):
                    gone.add(each.file.name)
            else:
                # The newest intact one stays, however old it is; damaged newer ones do not count.
                is_superseded = is_whole(each.file) and is_elsewhere(each.file)
    return tuple(sorted(gone))


def remove_expired(site: BackupContext, now: datetime) -> tuple[str, ...]:
    """Remove what is expired from the local directory; other places have lifecycle rules of their own.

    Returns:
        Names of the removed files; none while another place does not answer.
    """
    try:
        names = tuple(_expired(site, now - timedelta(days=site.keep_local_days)))
    except BackupError:  # the copying has reported it
        return ()
    if names:
        facts = {"files": list(names), "place": site.local.description}
        site.pipeline.ledger.append(Note(EventKind.BACKUPS_REMOVAL_INTENDED, facts))
        for name in names:
            site.local.remove(name)
    return names


def _expired(site: BackupContext, limit: datetime) -> Iterator[str]:
    sets = tuple(sets_of(site.local, site.trust))
    gone = expired(
        _local_copies(site, sets),
        limit,
        is_whole=lambda file: is_intact(site.local, file),
        is_elsewhere=lambda file: all(place.probably_holds(file) for place in site.offsite),
    )
    yield from gone
    yield from sorted(_empty_manifests(site, sets, limit, frozenset(gone)))


def _local_copies(site: BackupContext, sets: Iterable[BackupSet]) -> Iterator[LocalCopy]:
    names = frozenset(site.local.names())
    for made in sets:
        order = site.trust.order(made)
        for dump in made.dumps:
            if dump.file.name in names:
                yield LocalCopy((dump.member, dump.place or made.database), order, made.made_at, dump.file)
        if made.configuration is not None and made.configuration.name in names:
            yield LocalCopy(("configuration",), order, made.made_at, made.configuration)
        for copy in made.keys:
            if copy.file.name in names:
                yield LocalCopy((str(copy.version), copy.fingerprint), order, made.made_at, copy.file)


def _empty_manifests(
    site: BackupContext, sets: Iterable[BackupSet], limit: datetime, gone: frozenset[str]
) -> Iterator[str]:
    """Old manifests without any file left; damaged ones stay, so that they are noticed."""
    left = set(site.local.names()) - gone
    for made in sets:
        if made.made_at < limit and left.isdisjoint(file.name for file in made.files):
            yield from (made.name, signature_name(made.name))
