"""Makes the daily backup: every key that may still be needed, and the database, at one moment.

Of a fleet, a set has a dump of each member, too, one after the other. One that is down is named: the others are dumped.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from keyrotation_pipeline.audit.divergence import about_newcomer
from keyrotation_pipeline.audit.verify import verify_everything
from keyrotation_pipeline.backups import completeness
from keyrotation_pipeline.backups.catalog import (
    BackupContext,
    copy_set,
    is_intact,
    new_stamp,
    remove_unfinished,
    sets_of,
    unknown_sets,
)
from keyrotation_pipeline.backups.completeness import is_covered, last_finished
from keyrotation_pipeline.backups.member_dumps import newest_dump, signed_members
from keyrotation_pipeline.errors import AuditError, BackupError, KeyRotationError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backup_events import BackupIncomplete
from keyrotation_pipeline.model.backups import BackupSet, DatabaseCopy, KeyCopy, StoredFile, dump_name
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline.requests.witnessing import witness
from keyrotation_pipeline.rotation.key_checks import try_keys

FEWEST_RECIPIENTS = 2
BACKUP_LOCK = "backup"


@dataclass(frozen=True, slots=True)
class BackupMade:
    """A set that is in every place, and was read back there.

    Args:
        places: where it is.
        uploaded_later: older sets that a place got only now.
        removed: older local files that were removed.
        warnings: one sentence for each thing to improve.
        audit_fault: why the audit does not verify, whose keys and officers the set rests on; None: it does.
    """

    made: BackupSet
    places: tuple[str, ...]
    uploaded_later: tuple[str, ...]
    removed: tuple[str, ...]
    warnings: tuple[str, ...]
    audit_fault: str | None = None

    def require_sound_audit(self) -> None:
        """Fail, once the set is made, where the audit has faults.

        Raises:
            AuditError: says that the set is made, and what the fault is.
        """
        if self.audit_fault is not None:
            raise AuditError(f"the backup {self.made.name} is made and complete, but {self.audit_fault}")

    def facts(self) -> Mapping[str, Any]:
        """For the audit and for metadata."""
        dump, members = self.made.dump, self.made.members
        return {
            "set": self.made.name,
            "made_at": self.made.made_at,
            "keys": {str(key.version): key.fingerprint for key in self.made.keys},
            "files": {file.name: file.sha256 for file in self.made.files},
            "size_bytes": sum(file.size_bytes for file in self.made.files),
            "recipients": sorted({recipient for file in self.made.files for recipient in file.recipients}),
            "dump": dump.file.name if dump else None,
            "dump_needs": [str(version) for version in dump.versions] if dump else [],
            **({"members": {each.member: _of_member(each) for each in members}} if members else {}),
            "places": list(self.places),
            "uploaded_later": list(self.uploaded_later),
            "removed": list(self.removed),
            "warnings": list(self.warnings),
            "audit_fault": self.audit_fault,
        }


def _of_member(dump: DatabaseCopy) -> Mapping[str, Any]:
    """What the audit has of the dump of a fleet's member."""
    needs = [str(version) for version in dump.versions]
    return {"dump": dump.file.name, "place": dump.place, "needs": needs, "seq": dump.anchor and dump.anchor.seq}


def back_up(site: BackupContext, *, database: bool = True) -> BackupMade:
    """Back up every key and, with `database`, every database; in the local directory first, then in the other places.

    A key that cannot be backed up, a key store that does not answer, a dump that fails, a recipient whose certificate
    has expired: none of them stops the rest of the backup, but each is an error.

    Raises:
        BackupError: something could not be backed up; names it.
        AuditError: the pinned roster cannot be trusted, or a key is recorded as destroyed without valid signatures of
            officers.
        BlockedError: another backup is under way.
    """
    ledger = site.pipeline.ledger
    with ledger.lock(BACKUP_LOCK):
        _require_usable(site)
        remove_unfinished(site)
        # First, since every key and dump is encrypted to the roster's recipients.
        roster = pinned_roster(site.pipeline)
        with new_stamp(site.local, site.pipeline.clock.now(), site.trust.pipeline) as stamp:
            made, failures = _made(site, stamp, roster, database=database)
        places, later, not_copied = copied(site, made)
        failures += [*_uncovered(made), *_not_decrypted(site.pipeline, made), *not_copied]
        removed = completeness.remove_expired(site, made.made_at)
        done = BackupMade(made, places, later, removed, _warnings(site), _audit_fault(site.pipeline))
        _record(site.pipeline.ledger, done, tuple(dict.fromkeys(failures)))
    witness(site.pipeline)
    if failures:
        raise BackupError(f"the backup {made.name} is incomplete: {'; '.join(dict.fromkeys(failures))}")
    return done


def _made(site: BackupContext, stamp: str, roster: Roster, *, database: bool) -> tuple[BackupSet, list[str]]:
    """A set in the local directory, and what it lacks."""
    ledger = site.pipeline.ledger
    dump, failures = _dump(site, stamp) if database else (None, [])
    members, undumped = _member_dumps(site, stamp) if database else ((), [])
    keys, lost = _keys(site, stamp)
    failures = [*_unusable_recipients(site.pipeline.signatures), *lost, *failures, *undumped]
    if not keys and dump is None and not members:
        ledger.append(BackupIncomplete(None, tuple(failures)))
        raise BackupError(f"nothing could be backed up: {'; '.join(dict.fromkeys(failures))}")
    configuration, left_out = _configuration(site, stamp)
    made = BackupSet(
        stamp, str(site.pipeline.environment.identity()), keys, dump, ledger.head(), roster.digest, configuration,
        members=members,
    )  # fmt: skip
    return site.trust.write(site.local, made), [*failures, *left_out]


def back_up_after_rotation(site: BackupContext) -> BackupMade | None:
    """The full backup that follows the last rotation; None: no rotation has finished since the newest backup.

    Raises:
        BackupError, AuditError: as `back_up`; the rotation stays finished.
        AtWorkError: another process is making one.
    """
    pipeline = site.pipeline
    finished = last_finished(pipeline.ledger)
    if finished is None or is_covered(finished[1], pipeline.vault.status(pipeline.ledger.keys()).last):
        return None
    return back_up(site)


def _audit_fault(pipeline: Pipeline) -> str | None:
    """Why the audit does not verify; the backup is made nevertheless, since it may be the last one possible."""
    try:
        verify_everything(pipeline)
    except AuditError as error:
        return str(error)
    return None


def _require_usable(site: BackupContext) -> None:
    try:
        site.local.require_usable()
    except BackupError as error:
        site.pipeline.ledger.append(BackupIncomplete(None, (str(error),)))
        raise


def _record(ledger: Ledger, done: BackupMade, failures: tuple[str, ...]) -> None:
    if not failures:
        ledger.append(Note(EventKind.BACKUP_MADE, done.facts()))
        return
    files = {file.name: file.sha256 for file in done.made.files}
    ledger.append(BackupIncomplete(done.made.name, failures, files, done.places))


def _unusable_recipients(signatures: SignatureVerifier) -> list[str]:
    """A sentence for each recipient who will not be able to decrypt the backup."""
    certificates = signatures.certificates()
    return [each.unusable for each in certificates if each.encrypts and each.unusable is not None]


def _keys(site: BackupContext, stamp: str) -> tuple[tuple[KeyCopy, ...], list[str]]:
    """A file of every key that is not destroyed: rows, snapshots and stored dumps may need each of them."""
    registered = site.pipeline.ledger.keys()
    records = [record for record in registered if record.state is not KeyState.DESTROYED]
    try:
        stored = site.pipeline.keys.read()
    except KeyStoreError as error:
        return (), [str(error)]
    if not records and stored.primary != PLAINTEXT:
        return (), ["there is no key to back up; run `keyrotation init`"]
    copies, failures = [], []
    for record in records:
        try:
            copies.append(site.key_files.make(record.version, stored.registered(record), stamp))
        except KeyRotationError as error:
            failures.append(str(error))
    return tuple(copies), failures


def _configuration(site: BackupContext, stamp: str) -> tuple[StoredFile | None, list[str]]:
    try:
        return site.configurations.make(stamp), []
    except KeyRotationError as error:
        return None, [str(error)]


def _dump(site: BackupContext, stamp: str) -> tuple[DatabaseCopy | None, list[str]]:
    try:
        return _with_source_keys(site, site.dumps.make(dump_name(stamp), site.pipeline.own_tables)), []
    except KeyRotationError as error:
        return None, [str(error)]


def _member_dumps(site: BackupContext, stamp: str) -> tuple[tuple[DatabaseCopy, ...], list[str]]:
    """The dump of each member of a fleet, and a sentence for each that could not be dumped."""
    copies, failures = [], []
    for name in dict.fromkeys((*site.members, *signed_members(site.pipeline.ledger))):
        try:
            copies.append(_member_dump(site, stamp, name))
        except KeyRotationError as error:
            failures.append(f"no dump of {error}; {newest_dump(site.pipeline.ledger, name)}")
    return tuple(copies), failures


def _member_dump(site: BackupContext, stamp: str, name: str) -> DatabaseCopy:
    if name not in site.members:
        raise BackupError(f"database {name}: it is not in [[databases]]; add it, or have it signed away by a policy")
    opened, anchor = site.members[name](), site.pipeline.ledger.head()
    tables = [table for table in site.pipeline.tables if table.name.database == name]
    copy = site.dumps.make(dump_name(stamp, name), tables, opened.source)
    return replace(_with_source_keys(site, copy), member=name, place=opened.place, anchor=anchor)


def _with_source_keys(site: BackupContext, copy: DatabaseCopy) -> DatabaseCopy:
    """The dump with the keys of other libraries that it needs."""
    if not (names := copy.names_of_sources):
        return copy
    stored = site.pipeline.keys.read()
    return replace(copy, source_keys=tuple(sorted(stored.source(name)[0] for name in names)))


def _uncovered(made: BackupSet) -> list[str]:
    """What the dumps hold that no backed-up key can read."""
    if (keyless := made.keyless) is None:
        return []
    message = (
        f"a dump holds values under {keyless}, a key that could not be backed up; put it back with `keyrotation "
        "restore-key VERSION`, or find out who writes under it"
    )
    return [message]


def _not_decrypted(pipeline: Pipeline, made: BackupSet) -> list[str]:
    """A sentence for each key that does not decrypt the values under its version: the set could not be read with it."""
    wanted = {str(each.table.name): each.values for dump in made.dumps for each in dump.tables}
    # A member of a fleet that was not dumped is named already.
    dumped = {"", *(dump.member for dump in made.dumps)}
    pipeline = replace(pipeline, tables=tuple(each for each in pipeline.tables if each.name.database in dumped))
    try:
        stored = pipeline.keys.read()
        kept = {version: stored.material(version) for version in stored.versions}
        trial = try_keys(pipeline, KeyRing(kept, stored.ring().primary), wanted)
    except KeyRotationError as error:
        return [str(error)]
    # A version without a key is reported where it is missing from the set.
    wrong = [version for version in trial.wrong_versions if version in kept]
    return [trial.wrong_key(version, pipeline.keys.place_of) for version in wrong]


def copied(site: BackupContext, made: BackupSet) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Copy a set to every place, then older sets that a place lacks; returns places, older sets, failures."""
    places, later, failures = [site.local.description], [], []
    for place in site.offsite:
        try:
            place.require_usable()
            copy_set(site.local, place, made)
            places.append(place.description)
            for missed in _missed(site, place):
                copy_set(site.local, place, missed)
                later.append(missed.name)
        except BackupError as error:
            failures.append(str(error))
    return tuple(places), tuple(dict.fromkeys(later)), failures


def _missed(site: BackupContext, place: BackupPlace) -> Iterator[BackupSet]:
    """The local sets that a place does not have; without files of destroyed keys; damaged sets are not copied."""
    there, here = frozenset(place.names()), frozenset(site.local.names())
    registered = site.pipeline.ledger.keys()
    destroyed = {record.version for record in registered if record.state is KeyState.DESTROYED}
    for older in sets_of(site.local, site.trust):
        gone = {copy.file.name for copy in older.keys if copy.version in destroyed} - here
        if older.name not in there and all(
            is_intact(site.local, each) for each in older.files if each.name not in gone
        ):
            yield older


def _warnings(site: BackupContext) -> tuple[str, ...]:
    unknown: list[str] = []
    for place in site.places:
        with suppress(BackupError):  # the copying has reported it
            unknown += unknown_sets(place, place.names(), site.trust)
    return (*unknown, *_unnamed(site.pipeline.ledger), *_weaknesses(site))


def _unnamed(ledger: Ledger) -> Iterator[str]:
    if (message := about_newcomer(ledger.replayed())) is not None:
        yield f"{message}, so that other homes do not count this backup; run `keyrotation reconcile`"


def _weaknesses(site: BackupContext) -> Iterator[str]:
    if site.recipients < FEWEST_RECIPIENTS:
        yield (
            "only one certificate can decrypt the backups, so they are lost with its key; "
            "name at least two under [backup] recipients"
        )
    if not site.offsite:
        yield "the backups are on this machine only, and would be lost with it; name a bucket under [backup.s3]"
