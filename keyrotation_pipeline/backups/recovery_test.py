"""Runs the recovery test: fetches, decrypts, restores and reads a backup as after a disaster, and measures it.

Everything comes from the place that a recovery uses first, read as `recover` reads it: what was deleted or overwritten
there in the version that verifies, which the report names. Of a fleet some members are read, too, in turn. Nothing
falls back to another place or an older set: that would hide the problems that the test looks for. Nothing is kept.
Source: the source procedure, section 7.3.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.backups.catalog import BackupContext, KeptSets, Objectives, fetch, kept_sets, read_key
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.backups.member_tests import due_members, newest_dump_of
from keyrotation_pipeline.backups.restore_checks import (
    DecryptedCopy,
    at_its_server,
    decrypt_all,
    joined,
    require_no_failure,
    require_same,
)
from keyrotation_pipeline.backups.table_comparison import TableComparison
from keyrotation_pipeline.errors import (
    BackupError,
    BlockedError,
    FingerprintMismatchError,
    KeyRotationError,
    MemberUnavailableError,
    MissingVersionError,
    PreflightError,
    UndecryptableError,
    WrongRecipientError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.seal import forget_opened
from keyrotation_pipeline.model.audit import EventKind, Fact, Note, counted
from keyrotation_pipeline.model.backups import BackupSet, DatabaseCopy, stamp_of
from keyrotation_pipeline.model.comparison import TableCompared
from keyrotation_pipeline.model.key_events import RecoveryTestFailed
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.records import as_json, json_safe
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.backups import RecoveryKey
from keyrotation_pipeline.ports.database import TableInventory
from keyrotation_pipeline.requests.witnessing import witness

# The lock on the workspace for restoring.
LOCK = "recovery-test"


@dataclass(frozen=True, slots=True)
class DumpTested:
    """One dump that was restored and read.

    Args:
        read: every value of it, decrypted.
        relations: how many were compared with the dump's snapshot, every row counted.
        left_out: what is left to a superuser: it holds no row, and could run code with power.
        undumped: what the dumped database, or its server, had and the dump does not, apart from roles.
        server: into which it was restored.
        warning: what the server may hide; None: nothing.
        scratch_server: its system identifier.
        compared: of tables that held values of another library then, how they differ from the present ones.
        not_compared: those of which that is not known, and why, one phrase each.
    """

    name: str
    made_at: datetime
    rows: Mapping[str, int]
    read: DecryptedCopy
    relations: int
    left_out: tuple[str, ...]
    undumped: tuple[str, ...]
    server: str
    warning: str | None
    scratch_server: str | None
    compared: tuple[TableCompared, ...] = ()
    not_compared: tuple[str, ...] = ()

    def facts(self) -> Mapping[str, Any]:
        """The facts for the audit."""
        found = {"compared": [as_json(each) for each in self.compared], "not_compared": list(self.not_compared)}
        return {
            "file": self.name,
            "made_at": self.made_at,
            "rows": dict(self.rows),
            "decrypted": self.read.values,
            "unencrypted": dict(self.read.unencrypted),
            "relations": self.relations,
            "left_out": list(self.left_out),
            "undumped": list(self.undumped),
            "server": self.server,
            "warning": self.warning,
            **{name: listed for name, listed in found.items() if listed},
        }


@dataclass(frozen=True, slots=True)
class MemberTested:
    """A member of a fleet whose newest dump was restored and read.

    Args:
        place: name and system identifier of the database, as the dump has it.
        manifest, sha256: of the set, as the audit has it sealed; see `RecoveryReport.sha256`.
        seconds: from the first byte fetched to the last value read, of that dump.
        older: an older dump with values of another library; None: there is none.
        rekeyed: as `RecoveryReport.rekeyed`, of this member.
    """

    member: str
    place: str
    manifest: str
    sha256: str | None
    dump: DumpTested
    seconds: float
    older: DumpTested | None = None
    rekeyed: DumpTested | None = None

    def facts(self) -> Mapping[str, Any]:
        """The facts for the audit."""
        return {
            "member": self.member,
            "place": self.place,
            "set": self.manifest,
            "sha256": self.sha256,
            "scratch_server": self.dump.scratch_server,
            "seconds": round(self.seconds, 3),
            **self.dump.facts(),
            **({"older": self.older.facts()} if self.older else {}),
            **({"rekeyed": self.rekeyed.facts()} if self.rekeyed else {}),
        }


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """A passed test.

    Args:
        older: an older dump that only an archived key can read; None if there is none, or a server that holds the keys
            refuses them.
        rekeyed: the newest dump that was made from an older one and that no test has restored; after all, the newest.
        rto_seconds: from the first byte fetched to the last value read, of the newest set.
        rpo_seconds: how old the newest set was when the test began: what would have been lost.
        versions: by name, the version of each file of the newest set that was deleted or overwritten in the place.
        sha256: of the newest set's manifest, as the audit has it sealed; None: it has no such set.
        begun_at: when the test began.
        members: those of a fleet whose turn it was.
    """

    place: str
    recovery_key: str
    made: BackupSet
    newest: DumpTested
    older: DumpTested | None
    rekeyed: DumpTested | None
    rto_seconds: float
    rpo_seconds: float
    objectives: Objectives
    versions: Mapping[str, str]
    sha256: str | None
    begun_at: datetime
    members: tuple[MemberTested, ...] = ()

    @property
    def missed(self) -> tuple[str, ...]:
        """A sentence for each objective that was not met, and for what somebody has hidden."""
        allowed, missed = self.objectives, []
        if self.versions:
            missed.append(
                f"somebody deleted or overwrote {counted(len(self.versions), 'file')} of it in {self.place}, "
                "where older versions were read; find out who, and run `keyrotation backup`"
            )
        if self.rto_seconds > allowed.rto_seconds:
            missed.append(
                f"recovery took {self.rto_seconds:,.0f} s, and [recovery] rto_seconds allows "
                f"{allowed.rto_seconds:,} s; use a faster machine"
            )
        if self.rpo_seconds > allowed.rpo_seconds:
            missed.append(
                f"the newest backup was {self.rpo_seconds:,.0f} s old, and [recovery] rpo_seconds allows "
                f"{allowed.rpo_seconds:,} s; back up more often"
            )
        return (*missed, *self._missed_by_members())

    def _missed_by_members(self) -> Iterator[str]:
        allowed = self.objectives
        for each in self.members:
            if each.seconds > allowed.rto_seconds:
                yield (
                    f"recovery of database {each.member} took {each.seconds:,.0f} s, and [recovery] rto_seconds allows "
                    f"{allowed.rto_seconds:,} s; use a faster machine"
                )
            if (age := (self.begun_at - each.dump.made_at).total_seconds()) > allowed.rpo_seconds:
                yield (
                    f"the newest backup of database {each.member} was {age:,.0f} s old, and [recovery] rpo_seconds "
                    f"allows {allowed.rpo_seconds:,} s; back up more often"
                )

    def facts(self) -> Mapping[str, Any]:
        """The facts for the audit: names, counts and times, never content."""
        return {
            "place": self.place,
            "recovery_key": self.recovery_key,
            "set": self.made.name,
            "sha256": self.sha256,
            "scratch_server": self.newest.scratch_server,
            "versions": dict(self.versions),
            "keys": {str(key.version): key.fingerprint for key in self.made.keys},
            "newest": self.newest.facts(),
            "older": self.older.facts() if self.older else None,
            "rekeyed": self.rekeyed.facts() if self.rekeyed else None,
            **({"members": [each.facts() for each in self.members]} if self.members else {}),
            "rto_seconds": round(self.rto_seconds, 3),
            "rpo_seconds": round(self.rpo_seconds, 3),
            "objectives": {"rto_seconds": self.objectives.rto_seconds, "rpo_seconds": self.objectives.rpo_seconds},
            "missed": list(self.missed),
        }


def recovery_test(site: BackupContext, key: RecoveryKey, report: Report = lambda _progress: None) -> RecoveryReport:
    """Recover from the first place, read what was restored, and record the outcome, passed or failed.

    Raises:
        RecoveryError: a subclass and a sentence for each way that a backup can fail.
        BackupError: there is no backup, or the place cannot be read; or it passed, and a place takes no record of it.
        BlockedError: another test is running.
    """
    ledger, place = site.pipeline.ledger, site.places[0]
    with ledger.lock(LOCK):
        begun = {"place": place.description, "recovery_key": key.label}
        ledger.append(Note(EventKind.RECOVERY_TEST_STARTED, begun))
        try:
            tested = _tested(site, place, key, report)
        except KeyRotationError as error:
            # A place that does not answer must not hide why the test failed.
            with suppress(BackupError):
                _record(site, RecoveryTestFailed(place.description, key.label, type(error).__name__, str(error)))
            raise
        try:
            _record(site, Note(EventKind.RECOVERY_TEST_PASSED, tested.facts()))
        except BackupError as error:
            raise BackupError(
                "the recovery test passed, as the audit and `keyrotation status` say, but its record is not beside the "
                f"backups in every place: {error}"
            ) from error
        return tested


def require_recipient(site: BackupContext, key: RecoveryKey) -> None:
    """Refuse a key that cannot open the newest set because it was never to: that says nothing about the backups.

    One of a recipient that the roster names is not refused, whatever the set says: then the test is to fail.

    Raises:
        WrongRecipientError: neither the roster nor the newest set names it.
    """
    pinned = site.pipeline.ledger.pinned_roster()
    if key.fingerprint is None or pinned is None or key.fingerprint in pinned.recipients:
        return
    try:
        made, dump = newest_dump(kept_sets(site.places[0].with_versions(), site.trust), site.trust)
    except KeyRotationError:  # which the test records
        return
    if key.fingerprint not in dump.file.recipients:
        raise WrongRecipientError(
            f"{made.name} is not encrypted to the key {key.label}, which is no recipient's, so nothing was tested; "
            "give a recipient's key as --key"
        )


def recovered_keys(
    place: BackupPlace, made: BackupSet, key: RecoveryKey, registered: Sequence[KeyRecord]
) -> Mapping[KeyVersion, KeyMaterial]:
    """Every key of a set, each the one that is registered.

    Raises:
        MissingVersionError: a key that was registered when the set was made is not in it.
        RecoveryError, BackupError: as `read_key`.
    """
    fingerprints = {record.version: record.fingerprint for record in registered}
    keys = {}
    destroyed = _destroyed(registered)
    for copy in made.keys:
        if copy.version in destroyed:  # its file may already be removed
            continue
        keys[copy.version] = read_key(place, copy, key)
        if (wanted := fingerprints.get(copy.version, copy.fingerprint)) != copy.fingerprint:
            raise FingerprintMismatchError(
                f"{copy.file.name} holds the key {copy.fingerprint[:16]}, but {copy.version} is registered as "
                f"{wanted[:16]}; find out which one encrypted the values, and back that one up"
            )
    for record in registered if made.made_from is None else ():  # a rekeyed set has only its own dump's keys
        if record.version not in {*keys, *destroyed} and record.created_at <= made.made_at:
            raise MissingVersionError(
                f"{made.name} in {place.description} lacks the key {record.version}; run `keyrotation restore-key "
                f"{record.version}` from an older backup, then `keyrotation backup`"
            )
    return keys


def require_keys(dump: DatabaseCopy, keys: Mapping[KeyVersion, KeyMaterial]) -> None:
    """Refuse a dump that needs a key not among these.

    Raises:
        MissingVersionError: names the first that is missing.
    """
    if missing := [version for version in dump.versions if version not in keys]:
        raise MissingVersionError(
            f"{dump.file.name} needs the key {missing[0]}, which no recovered backup holds; find a backup of "
            f"{missing[0]}, or its values in that dump are lost"
        )


def _tested(site: BackupContext, place: BackupPlace, key: RecoveryKey, report: Report) -> RecoveryReport:
    clock, registered, place = site.pipeline.clock, site.pipeline.ledger.keys(), place.with_versions()
    with site.restorer.workspace() as workspace:
        begun = clock.now()
        forget_opened()  # else sealed keys would open without their KMS
        kept = kept_sets(place, site.trust)
        made, dump = newest_dump(kept, site.trust)
        keys = recovered_keys(place, made, key, registered)
        newest = _restored(site, place, made, dump, keys, key, workspace, report)
        recovered = clock.now()
        older_set = _older_under_archived_key(kept, made, registered, _withheld(site))
        older = None
        if older_set is not None and older_set.dump is not None:
            older = _restored(site, place, older_set, older_set.dump, keys, key, workspace, report)
        rekeyed = _rekeyed_tested(site, kept, "", key, workspace, report)
        members = tuple(
            _member_tested(site, kept, name, keys, key, workspace, report, _destroyed(registered))
            for name in due_members(site.pipeline.ledger, begun)
        )
    return RecoveryReport(
        place=place.description,
        recovery_key=" and ".join([key.label, *dict.fromkeys(copy.sealed_by for copy in made.keys if copy.sealed_by)]),
        made=made,
        newest=newest,
        older=older,
        rekeyed=rekeyed,
        rto_seconds=(recovered - begun).total_seconds(),
        rpo_seconds=(begun - made.made_at).total_seconds(),
        objectives=site.objectives,
        versions=place.older.used_by(made.names),
        sha256=_sha256(site, made),
        begun_at=begun,
        members=members,
    )


def _sha256(site: BackupContext, made: BackupSet) -> str | None:
    return site.trust.seal_of(made).sha256 if made.name in site.trust.names else None


def _member_tested(
    site: BackupContext,
    kept: KeptSets,
    name: str,
    keys: Mapping[KeyVersion, KeyMaterial],
    key: RecoveryKey,
    workspace: Path,
    report: Report,
    destroyed: Collection[KeyVersion],
) -> MemberTested:
    begun = site.pipeline.clock.now()
    made, dump = newest_dump_of(site, kept, name)
    tested = _restored(site, kept.place, made, dump, keys, key, workspace, report)
    seconds = (site.pipeline.clock.now() - begun).total_seconds()
    rekeyed = _rekeyed_tested(site, kept, name, key, workspace, report)
    found = (
        (of, each)
        for of, each in kept.dumps
        if each.member == name and each.source_keys and of.made_at < made.made_at
        if frozenset(destroyed).isdisjoint(each.versions)
    )
    older = next((_restored(site, kept.place, *each, keys, key, workspace, report) for each in found), None)
    return MemberTested(name, dump.place, made.name, _sha256(site, made), tested, seconds, older, rekeyed)


def _rekeyed_tested(
    site: BackupContext, kept: KeptSets, member: str, key: RecoveryKey, workspace: Path, report: Report
) -> DumpTested | None:
    """The dump of one database that `RecoveryReport.rekeyed` says; "": of the home's own."""
    registered = site.pipeline.ledger.keys()
    if (found := _rekeyed(site, kept, registered, member)) is None:
        return None
    made, dump = found
    keys = recovered_keys(kept.place, made, key, registered)
    return _restored(site, kept.place, made, dump, keys, key, workspace, report)


def newest_dump(kept: KeptSets, trust: ManifestTrust) -> tuple[BackupSet, DatabaseCopy]:
    """The newest set with a dump; never skips a damaged, forged or missing one for an older one.

    Raises:
        BackupError, RecoveryError: it is missing, damaged, or not ours.
    """
    made, sealed = kept.newest, next(iter(trust.sealed_with_dump), None)
    for name, why in kept.refused.items():
        if made is None or trust.is_after(name, made):
            raise why
    if made is None or made.dump is None:
        raise BackupError(f"{kept.place.description} has no backup of the database; run `keyrotation backup`")
    # A set made from an older one is sorted with that one, and is never the newest.
    if sealed is not None and (made.made_from is not None or trust.is_after(sealed, made)):
        where = f"{kept.place.description}{kept.place.older.caveat}"
        raise BackupError(
            f"{sealed}, the newest backup of the database, is not in {where}; run `keyrotation backup`, and find out "
            "who removed it"
            if trust.was_stored(sealed, kept.place.description)
            else f"{sealed}, the newest backup of the database, is not in {where}, and the audit records no complete "
            "upload of it; run `keyrotation backup`"
        )
    return made, made.dump


def _ring(keys: Mapping[KeyVersion, KeyMaterial]) -> KeyRing:
    """The keys of a set; before the first one was registered, one that decrypts nothing."""
    return KeyRing.for_reading(keys)


def _withheld(site: BackupContext) -> frozenset[KeyVersion]:
    """Archived versions that nobody can read with, since a server holds the keys and refuses these."""
    if not any(table.format.is_held_by_server for table in site.pipeline.tables):
        return frozenset()
    stored = site.pipeline.keys.read()
    return frozenset(stored.archived) - frozenset(stored.left_behind)


def _older_under_archived_key(
    kept: KeptSets, newest: BackupSet, registered: Sequence[KeyRecord], withheld: Collection[KeyVersion]
) -> BackupSet | None:
    """The newest set before `newest` whose dump needs a key that applications no longer have, and can be read."""
    archived = {record.version for record in registered if record.state is KeyState.ARCHIVED}
    destroyed = _destroyed(registered)
    for each in kept.sets:
        needed = each.dump.versions if each.dump is not None and each.made_at < newest.made_at else ()
        # A key is destroyed only after every dump that needs it: only the manifest of such a set is left.
        if archived.intersection(needed) and destroyed.union(withheld).isdisjoint(needed):
            return each
    return None


def _rekeyed(
    site: BackupContext, kept: KeptSets, registered: Sequence[KeyRecord], member: str
) -> tuple[BackupSet, DatabaseCopy] | None:
    """A set that was made from an older one, as `RecoveryReport` has it; retention may have removed its dump."""
    gone = _destroyed(registered) | _withheld(site)
    passed = entries(site.pipeline.ledger, EventKind.RECOVERY_TEST_PASSED)
    tests = [test for each in passed for test in (each.facts, *each.facts.get("members", ()))]
    tested = {facts["file"] for each in tests if (facts := each.get("rekeyed"))}
    found = [
        (made, dump)
        for made, dump in kept.dumps
        if made.made_from is not None and dump.member == member and gone.isdisjoint(dump.versions)
    ]
    # The first of these, and so the newest.
    return min(found, key=lambda each: each[1].file.name in tested, default=None)


def _destroyed(registered: Sequence[KeyRecord]) -> frozenset[KeyVersion]:
    return frozenset(record.version for record in registered if record.state is KeyState.DESTROYED)


def _restored(
    site: BackupContext,
    place: BackupPlace,
    made: BackupSet,
    dump: DatabaseCopy,
    keys: Mapping[KeyVersion, KeyMaterial],
    key: RecoveryKey,
    workspace: Path,
    report: Report,
) -> DumpTested:
    require_keys(dump, keys)
    dump = at_its_server(dump, site.pipeline.tables)
    target = workspace / "dump"
    fetch(place, dump.file, target)
    with site.restorer.restored(dump, target, key) as restored:
        require_no_failure(restored, dump)
        read = decrypt_all(restored, dump, _ring(keys), report)
        compared, not_compared = _compared(site, dump, restored.inventory, keys)
        handed_over = restored.hand_over(lambda _done: None)
        require_same(handed_over, restored, dump)
        if read.undecryptable:
            raise UndecryptableError(
                f"{dump.file.name} restores completely, but {joined(read.undecryptable)} do not decrypt; run "
                "`keyrotation verify`, and take the rows that it names from an older backup"
            )
    target.unlink()
    return DumpTested(
        dump.file.name,
        made.made_at,
        dump.rows,
        read,
        len(dump.content.relations),
        handed_over.left_out,
        (*handed_over.undumped, *dump.undumped_of_server),
        restored.server,
        restored.warning,
        restored.system_identifier,
        compared,
        not_compared,
    )


def _compared(
    site: BackupContext, dump: DatabaseCopy, restored: TableInventory, keys: Mapping[KeyVersion, KeyMaterial]
) -> tuple[tuple[TableCompared, ...], tuple[str, ...]]:
    """Compares tables that held values of another library with the present ones, value by value, decrypted.

    Where that library authenticates nothing, only this shows that a value was taken over as it was. What was written
    since the backup differs.
    """
    pipeline, found, left = site.pipeline, list[TableCompared](), list[str]()
    then = {content.table.name: content for content in dump.tables if any(content.old_forms.values())}
    tables = [table for table in pipeline.tables if table.name in then]
    stored = pipeline.keys.read() if tables else None
    present = {each: stored.material(each) for each in stored.live if each not in keys} if stored else {}
    ring = KeyRing.for_reading({**present, **keys})
    for table in tables:
        comparison, done = TableComparison(table, ring, then[table.name].table), TableCompared(str(table.name))
        try:
            with closing(comparison.differences(restored, pipeline.inventory)) as every:
                for each in every:
                    done = done.plus(each)
        except (PreflightError, BlockedError, MemberUnavailableError) as error:
            left.append(f"{table.name}: {error}")
        else:
            found.append(replace(done, rows=comparison.rows, values=comparison.values))
    left += [f"{name}: it is not declared any more" for name in then if name not in {each.name for each in tables}]
    return tuple(found), tuple(left)


def _record(site: BackupContext, outcome: Fact | Note) -> None:
    """Append to the audit, then write the same next to the backups, in every place."""
    now = site.pipeline.clock.now()
    head = site.pipeline.ledger.append(outcome)
    name = f"recovery-test-{stamp_of(now, site.trust.pipeline)}.json"
    content = {"at": now, "outcome": outcome.kind, **outcome.as_json(), "audit": {"seq": head.seq, "head": head.hash}}
    site.local.write(name, f"{json.dumps(json_safe(content), indent=2)}\n".encode())
    for place in site.offsite:
        place.put(name, site.local.path(name))
    witness(site.pipeline)
