"""Restores a dump into a new database next to the live one and reads all of it; people decide which one to use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from keyrotation_pipeline.backups.catalog import BackupContext, fetch, kept_sets, missing_from_store
from keyrotation_pipeline.backups.recovery_test import LOCK
from keyrotation_pipeline.backups.restore_checks import (
    MOST_SHOWN,
    DecryptedCopy,
    at_its_server,
    decrypt_all,
    require_complete,
)
from keyrotation_pipeline.errors import (
    BackupError,
    KeyRotationError,
)
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backups import BackupSet, DatabaseCopy, member_in, stamp_in
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.backups import NewDatabases, RecoveryKey
from keyrotation_pipeline.ports.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class RestoredDatabase:
    """A database that was restored and read completely.

    Args:
        read: every value of it, decrypted.
        failures: what could not be restored, or differs from the dump's catalogue; no row is missing. Then nobody but
            its owner and superusers can connect to it.
        left_out: what only a superuser can restore.
        undumped: what the dumped database had and the dump does not.
        for_superuser: SQL that does, to be read before it is executed; empty if there is nothing.
    """

    database: str
    dump: str
    made_at: datetime
    place: str
    rows: Mapping[str, int]
    read: DecryptedCopy
    failures: tuple[str, ...]
    left_out: tuple[str, ...]
    undumped: tuple[str, ...]
    for_superuser: str = field(repr=False)

    def facts(self) -> Mapping[str, Any]:
        """The facts for the audit."""
        return {
            "database": self.database,
            "dump": self.dump,
            "made_at": self.made_at.isoformat(),
            "place": self.place,
            "rows": dict(self.rows),
            "values_decrypted": self.read.by_table(),
            "undecryptable": list(self.read.undecryptable[:MOST_SHOWN]),
            "unencrypted": dict(self.read.unencrypted),
            "failures": list(self.failures[:MOST_SHOWN]),
            "left_out": list(self.left_out),
            "undumped": list(self.undumped),
        }

    def require_complete(self) -> None:
        """Refuse a database that lacks something, or in which not every value decrypts.

        Raises:
            IncompleteRestoreError, UndecryptableError: as `restore_checks.require_complete`.
        """
        require_complete(self.database, self.failures, self.read.undecryptable)


def restore_to_new_database(
    site: BackupContext, databases: NewDatabases, key: RecoveryKey, into: str, wanted: str | None, report: Report
) -> RestoredDatabase:
    """Restore a dump into the new database `into`, count it and decrypt every value with the key store's keys.

    Args:
        wanted: file name of the dump; None takes the newest.

    Raises:
        BackupError: there is no such dump.
        MissingVersionError: the dump needs a key that the key store does not hold.
        LostRowsError: the new database differs from the dump; it is left for inspection.
        IncompleteRestoreError: the server cannot have such a database; says why.
    """
    ledger = site.pipeline.ledger
    with ledger.lock(LOCK), site.restorer.workspace() as workspace:
        place, made, dump = find_dump(site, wanted)
        dump = at_its_server(dump, site.pipeline.tables)
        ring = _ring(site.pipeline, dump)
        intent = {"database": into, "dump": dump.file.name, "place": place.description}
        ledger.append(Note(EventKind.DATABASE_RESTORE_INTENDED, intent))
        target = workspace / "dump"
        fetch(place, dump.file, target)
        with databases.restored(into, dump, target, key) as restored:
            read = decrypt_all(restored, dump, ring, report)
            handed_over = restored.hand_over(lambda _done: None)
        wrong = (*restored.failures, *handed_over.differences)
        where = place.older.where(dump.file.name, place.description)
        done = RestoredDatabase(
            into, dump.file.name, made.made_at, where, dump.rows, read, wrong, handed_over.left_out,
            handed_over.undumped, handed_over.for_superuser,
        )  # fmt: skip
        ledger.append(Note(EventKind.DATABASE_RESTORED, done.facts()))
    return done


def find_dump(site: BackupContext, wanted: str | None) -> tuple[BackupPlace, BackupSet, DatabaseCopy]:
    """A dump of the home's own database, by its name or its manifest's (None: the newest); as `find_set`.

    Raises:
        BackupError, UnsignedBackupError: there is none, or it is not known to be ours.
    """
    if member := member_in(wanted or ""):
        raise BackupError(
            f"{wanted} is of database {member} of the fleet; bring that back with `keyrotation recover --database "
            f"{member} --into NAME`"
        )
    place, made = find_set(site, wanted, lambda each: each.dump is not None)
    if made.dump is None:
        raise BackupError(f"{made.name} has no dump of the home's own database; name another set")
    return place, made, made.dump


def find_set(
    site: BackupContext, wanted: str | None, has_dump: Callable[[BackupSet], bool] = lambda made: bool(made.dumps)
) -> tuple[BackupPlace, BackupSet]:
    """A set by its manifest's name or a dump's (None: the newest), in the nearest place that has it: local first.

    Raises:
        BackupError, UnsignedBackupError: there is none, or it is not known to be ours.
    """
    found: list[tuple[BackupPlace, BackupSet]] = []
    refused: KeyRotationError | None = None
    for place in reversed(site.places):
        try:
            kept = kept_sets(place.with_versions(), site.trust)
        except BackupError as error:  # the place does not answer
            refused = error
            continue
        if wanted is not None:
            refused = next((why for name, why in kept.refused.items() if _is_of(name, wanted)), refused)
        found += [
            (kept.place, made)
            for made in kept.sets
            if has_dump(made) and wanted in {None, made.name, *(each.file.name for each in made.dumps)}
        ]
    if found:
        return max(found, key=lambda each: site.trust.order(each[1]))
    if refused is not None:
        raise refused
    places = " or ".join(place.description for place in site.places)
    what = f"{wanted} is not" if wanted else "no backup of the database is"
    raise BackupError(f"{what} in {places}; `keyrotation restore-key --survey` lists the existing ones")


def _is_of(manifest: str, wanted: str) -> bool:
    return stamp_in(manifest) == stamp_in(wanted)


def _ring(pipeline: Pipeline, dump: DatabaseCopy) -> KeyRing:
    """Every key that the dump needs, live or archived; values under a version that never was a key stay as they are."""
    stored, records = pipeline.keys.read(), pipeline.ledger.keys()
    registered = {record.version for record in records}
    for version in registered.intersection(dump.versions):
        if version not in stored:
            raise missing_from_store(dump, version)
    held = registered.intersection(dump.versions) or stored.versions[:1]
    needed = {version: stored.material(version) for version in held}
    return KeyRing.for_reading(needed)
