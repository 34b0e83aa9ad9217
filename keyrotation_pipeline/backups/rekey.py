"""Rekeys old backups after a compromise: makes a set from an old one, under a key that is not compromised.

The old dump is restored in a scratch server, re-encrypted there by the engine of every rotation, proven, and dumped
again; of a fleet, the dump of each member, too. The new set has the time of the old one, so that it is not mistaken for
a fresh backup, and holds only the key that its dumps need. It adds a set and removes none: the old one expires by its
own rules, and the old key is removed by `destroy`, which officers sign.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.backups.backup import BACKUP_LOCK, copied
from keyrotation_pipeline.backups.catalog import BackupContext, fetch, missing_from_store, remove_unfinished
from keyrotation_pipeline.backups.recovery_test import LOCK
from keyrotation_pipeline.backups.remaining_copies import sets_to_rekey
from keyrotation_pipeline.backups.restore_checks import require_all_there, require_no_failure, require_same
from keyrotation_pipeline.backups.restore_to_new_database import find_set
from keyrotation_pipeline.errors import (
    BackupError,
    BlockedError,
    ProofError,
    RequestError,
    UndecryptableError,
)
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, SourceKey
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.backup_events import BackupRekeyed, BackupRekeyIntended
from keyrotation_pipeline.model.backups import BackupSet, DatabaseCopy, MadeFrom, dump_name, free_stamps, manifest_name
from keyrotation_pipeline.model.keys import KeyState, StoredKeys
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.model.tables import EncryptedTable, Place, SearchIndex, TableName
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.backups import RecoveryKey, RekeyableDump, RestoredDump
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.requests.roster import pinned_roster

# The request id of the engine's progress in the scratch server.
_REQUEST = "rekey"
_MOST_SWEEPS = 3


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """A set that was made from another one.

    Args:
        record: as in the audit.
        left: manifests of sets that a compromised key still decrypts and that no other set replaces.
    """

    made: BackupSet
    record: BackupRekeyed
    left: tuple[str, ...]


def rekey(site: BackupContext, key: RecoveryKey, wanted: str | None, report: Report) -> Rekeyed:
    """Make a set whose dumps have the rows of an old one under the present primary.

    Args:
        wanted: manifest or a dump of the old set; None takes the newest that needs a compromised version.

    Raises:
        RequestError: there is nothing to rekey, or no key to do it with.
        MissingVersionError: the key store lacks a key that the old dump needs.
        RecoveryError: the old dump does not restore completely.
        UndecryptableError: a value of it does not decrypt.
        ProofError: its content would differ under the new key; names what.
        BackupError: the new set is not safe in every place.
    """
    pipeline = site.pipeline
    with pipeline.ledger.lock(BACKUP_LOCK), pipeline.ledger.lock(LOCK), site.restorer.workspace() as workspace:
        site.local.require_usable()
        remove_unfinished(site)
        stored = pipeline.keys.read()
        require_consistent(pipeline, stored)
        target = _target(pipeline.ledger, stored)
        place, old = find_set(site, wanted or _newest_to_rekey(site))
        keys = _keys(pipeline.ledger, stored, old, target)
        source, stamp = site.trust.seal_of(old), _stamp(site, place, old)
        pipeline.ledger.append(BackupRekeyIntended(manifest_name(stamp), old.name, target))
        with _kept_if_all_are(site) as copies:
            for dump in old.dumps:
                copies.append(_rekeyed(site, place, old, dump, keys, target, stamp, key, workspace, report))
        made = _sealed(site, old, source, stamp, [each.copy for each in copies], target, keys[target])
        places, _, failures = copied(site, made)
        record = BackupRekeyed(
            made.name,
            old.name,
            target,
            tuple(version for version in _needed(old) if version != target),
            {table: values for each in copies for table, values in each.values.items()},
            {each.name: each.sha256 for each in made.files},
            places,
            tuple(phrase for each in copies for phrase in each.left_out),
            tuple(failures),
        )
        pipeline.ledger.append(record)
        left = tuple(made.name for made in sets_to_rekey(site))
    if failures:
        raise BackupError(
            f"{made.name} is made, but not in every place yet: {'; '.join(failures)}; the next `keyrotation backup` "
            "uploads it"
        )
    return Rekeyed(made, record, left)


@dataclass(frozen=True, slots=True)
class _RekeyedDump:
    """The new dump of one database, how many values of each table it has, and what it leaves to a superuser."""

    copy: DatabaseCopy
    values: Mapping[str, int]
    left_out: tuple[str, ...]


@contextmanager
def _kept_if_all_are(site: BackupContext) -> Iterator[list[_RekeyedDump]]:
    """Yields a list for dumps whose files are removed unless the context ends without an error."""
    copies = list[_RekeyedDump]()
    try:
        yield copies
    except BaseException:
        for each in copies:
            site.local.remove(each.copy.file.name)
        raise


def _rekeyed(
    site: BackupContext,
    place: BackupPlace,
    old: BackupSet,
    dump: DatabaseCopy,
    keys: Mapping[KeyVersion, KeyMaterial],
    target: KeyVersion,
    stamp: str,
    key: RecoveryKey,
    workspace: Path,
    report: Report,
) -> _RekeyedDump:
    """One dump of the old set again under the target; of the same database and moment."""
    file = workspace / "dump"
    fetch(place, dump.file, file)
    with site.restorer.restored(dump, file, key) as restored:
        file.unlink()
        require_no_failure(restored, dump)
        require_all_there(restored, dump)
        tables = _tables(site.pipeline.tables, dump, restored)
        values = _reencrypted(restored, old, tables, keys, target, report)
        handed_over = restored.hand_over(lambda _done: None)
        require_same(handed_over, restored, dump)
        ring = KeyRing(keys, target)
        copy = site.dumps.make(dump_name(stamp, dump.member), tables, _rekeyable(restored).source(ring))
    # Its scratch server has a superuser of its own.
    copy = replace(
        copy,
        definition=dump.definition,
        undumped=dump.undumped,
        member=dump.member,
        place=dump.place,
        anchor=dump.anchor,
    )
    if not set(copy.versions) <= {target}:
        site.local.remove(copy.file.name)
        raise ProofError(f"{copy.file.name} needs {', '.join(map(str, copy.versions))}; report it")
    return _RekeyedDump(copy, values, handed_over.left_out)


def _needed(old: BackupSet) -> tuple[KeyVersion, ...]:
    """The versions that any of its dumps needs."""
    return tuple(sorted({version for dump in old.dumps for version in dump.versions}))


def _target(ledger: Ledger, stored: StoredKeys) -> KeyVersion:
    """The present primary, if rows may be written under it."""
    records, target = ledger.keys(), stored.primary
    states = {each.version: each.state for each in records}
    if target is None or states.get(target) is not KeyState.ACTIVE:
        raise RequestError(
            f"the primary {target} is {states.get(target, 'not registered') if target else 'not named'}, so nothing is "
            "encrypted under it; finish the rotation to a sound key first (`keyrotation status` says which)"
        )
    return target


def _newest_to_rekey(site: BackupContext) -> str:
    for each in sets_to_rekey(site):
        return each.name
    raise RequestError(
        "no kept database backup needs a compromised key that no other one replaces; name one that "
        "`keyrotation backup --list` shows to rekey that"
    )


def _keys(ledger: Ledger, stored: StoredKeys, old: BackupSet, target: KeyVersion) -> Mapping[KeyVersion, KeyMaterial]:
    """Every key that the old dumps need, and the new one; each as registered."""
    if set(_needed(old)) <= {target}:
        raise RequestError(f"{old.name} needs no key but {target} already; `keyrotation backup --list` shows others")
    records = ledger.keys()
    registered = {each.version: each for each in records}
    for dump in old.dumps:
        for version in dump.versions:
            if version not in stored or version not in registered:
                raise missing_from_store(dump, version)
    return {version: stored.registered(registered[version]) for version in {*_needed(old), target}}


def _stamp(site: BackupContext, place: BackupPlace, old: BackupSet) -> str:
    """The time stamp of the old set, with the next number that no set has or had."""
    taken = {*site.local.names(), *place.names(), *site.trust.names}
    taken |= {each.manifest for each in recorded(site.pipeline.ledger, BackupRekeyIntended)}
    return next(free_stamps(old.made_at, site.trust.pipeline, taken))


def _tables(
    declared: Sequence[EncryptedTable], dump: DatabaseCopy, restored: RestoredDump
) -> tuple[EncryptedTable, ...]:
    """The tables declared then, with the columns declared now, so that a column that was forgotten then is included."""
    there = {each.name for each in restored.content.relations}
    places: dict[TableName, dict[Place, Place]] = {}
    labels: dict[TableName, dict[str, str]] = {}
    formats: dict[TableName, ValueFormat] = {}
    # With its options, but nobody writes to a restored copy.
    present = {table.format.name: replace(table.format.of_all_tables, logins=()) for table in declared}
    tables = [table for table in declared if table.name.database == dump.member]
    for table in (*(each.table for each in dump.tables), *tables):
        if table.name.in_any_database in there:
            for place in map(table.place, table.columns):  # `from` is removed once a column is encrypted
                places.setdefault(table.name, {}).setdefault(replace(place, source="", source_key=""), place)
            labels.setdefault(table.name, {}).update(table.bindings)
            known = formats.setdefault(table.name, present.get(table.format.name, table.format))
            if table.format.row and not known.row:  # the column had the name that it had then
                formats[table.name] = replace(known, row=table.format.row, row_from=table.format.row_from)
    indexes = {table.name: _indexes(table, restored) for table in tables}
    return tuple(
        replace(
            EncryptedTable.of(name, tuple(found.values()), formats[name]),
            bindings=tuple(sorted(labels[name].items())),
            indexes=indexes.get(name, ()),
        )
        for name, found in places.items()
    )


def _indexes(table: EncryptedTable, restored: RestoredDump) -> tuple[SearchIndex, ...]:
    """The declared search indexes whose columns were there then."""
    there = restored.inventory.columns(table.name)
    return tuple(index for index in table.indexes if there.issuperset(index.columns))


def _rekeyable(restored: RestoredDump) -> RekeyableDump:
    if restored.rekeyable is None:
        raise BackupError("this server does not dump again what it restores; report it")
    return restored.rekeyable


def _reencrypted(
    restored: RestoredDump,
    old: BackupSet,
    tables: Sequence[EncryptedTable],
    keys: Mapping[KeyVersion, KeyMaterial],
    target: KeyVersion,
    report: Report,
) -> dict[str, int]:
    """Re-encrypt every value under the target, and prove that nothing else has changed; returns values by table."""
    rows = _rekeyable(restored)
    rows.prepare()
    _require_all_declared(restored, old, tables, target)
    before_ring, after_ring = KeyRing(keys, target), KeyRing({target: keys[target]}, target)
    # A ring with a later key than the target's, as after a rollback, leaves values of an old form as they are.
    sources = {version: each for version, each in keys.items() if isinstance(each, SourceKey)}
    taking_in = KeyRing({target: keys[target], **sources}, target)
    values = {}
    for table in tables:
        before = rows.read(table, before_ring)
        if before.failures:
            raise UndecryptableError(
                f"{counted(before.failures, 'value')} of {table.name} in {old.name} cannot be decrypted, so no "
                "complete rekeying is possible; look for the keys, or an older backup"
            )
        for ring in (before_ring, taking_in):
            for _ in range(_MOST_SWEEPS):
                if not restored.rewriting.sweep(_REQUEST, table, ring, target, wait=False).rows:
                    break
        if table.indexes:
            restored.rewriting.clear_indexes(_REQUEST, table, target, report)
        after = rows.read(table, after_ring)
        if after != before:
            raise ProofError(
                f"{table.name} of {old.name} differs under {target} ({after.values:,} of {before.values:,} values "
                f"decrypt, {after.rows:,} of {before.rows:,} rows); nothing was stored: look for triggers that change "
                "rows"
            )
        report(Progress(Step.ROWS, f"{table.name} rekeyed", after.rows, after.rows))
        values[str(table.name)] = after.values
    _require_nothing_left(restored, old, tables, target)
    rows.clean_up()
    return values


def _require_all_declared(
    restored: RestoredDump, old: BackupSet, tables: Sequence[EncryptedTable], target: KeyVersion
) -> None:
    # A materialized view is computed again when the dump is restored.
    for finding in restored.inventory.discover(tables):
        if not finding.materialized and (set(finding.versions) - {target} or finding.near_misses):
            under = ", ".join(map(str, finding.versions)) or "an unknown version"
            raise BlockedError(
                f"{finding.relation}.{finding.column} of {old.name} is not declared and holds values under {under}; "
                "declare it under [[tables]], then run this again"
            )


def _require_nothing_left(
    restored: RestoredDump, old: BackupSet, tables: Sequence[EncryptedTable], target: KeyVersion
) -> None:
    # Values that name no version were read with the target's key alone.
    naming = [table for table in tables if table.format.identified_by is IdentifiedBy.MARKER]
    for count in restored.inventory.count(naming):
        wrong = {str(version): number for version, number in count.values_by_version.items() if version != target}
        remaining = [*(f"{number:,} under {version}" for version, number in wrong.items() if number)]
        remaining += [f"{count.near_misses:,} that are nearly in our format"] if count.near_misses else []
        if remaining:
            raise ProofError(
                f"{count.table.name} of {old.name} still has values after it was re-encrypted: {', '.join(remaining)}; "
                "fix them in the database, and rekey a backup of that"
            )
    _require_all_declared(restored, old, tables, target)


def _sealed(
    site: BackupContext,
    old: BackupSet,
    source: MadeFrom,
    stamp: str,
    copies: Sequence[DatabaseCopy],
    target: KeyVersion,
    material: KeyMaterial,
) -> BackupSet:
    """The set of dumps that were counted in their own snapshots, with the one key that they need."""
    keys = (site.key_files.make(target, material, stamp),)
    configuration = site.configurations.make(stamp)
    roster = pinned_roster(site.pipeline)
    head = site.pipeline.ledger.head()
    own = next((each for each in copies if not each.member), None)
    members = tuple(each for each in copies if each.member)
    made = BackupSet(stamp, old.database, keys, own, head, roster.digest, configuration, source, members=members)
    return site.trust.write(site.local, made)
