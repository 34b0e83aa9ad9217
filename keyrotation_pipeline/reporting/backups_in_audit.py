"""Backups and recovery tests as the audit has them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from keyrotation_pipeline.audit.history import HistoryEntry, LedgerState
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backup_events import (
    BackupFacts,
    BackupIncomplete,
    BackupRekeyed,
    BackupSealed,
    RecoveryTestFacts,
)
from keyrotation_pipeline.model.backups import stamp_in, stamped_at
from keyrotation_pipeline.model.key_events import RecoveryTestFailed
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.reporting.sections import BackupTaken, RecoveryTested

NOT_SEALED = "no signed manifest of it is on record before it"


def backups_of(entries: Sequence[HistoryEntry], state: LedgerState) -> tuple[BackupTaken, ...]:
    """Every backup, oldest first; one whose manifest the pipeline did not sign is not complete."""
    lost = {str(each.version) for each in state.keys.values() if each.state is KeyState.COMPROMISED}
    replaced = {fact.made_from: fact.manifest for each in entries if isinstance(fact := each.fact, BackupRekeyed)}
    sealed: set[str] = set()
    found: list[BackupTaken] = []
    for entry in entries:
        if isinstance(entry.fact, BackupSealed):
            sealed.add(entry.fact.manifest)
        elif (taken := _backup(entry, state)) is not None:
            unsealed = taken.manifest is not None and taken.manifest not in sealed
            found.append(
                replace(
                    taken,
                    failures=(*taken.failures, *([NOT_SEALED] if unsealed else [])),
                    compromised=tuple(sorted(lost.intersection(taken.compromised))),
                    replaced_by=replaced.get(taken.manifest or ""),
                )
            )
    return tuple(found)


def _backup(entry: HistoryEntry, state: LedgerState) -> BackupTaken | None:
    """One backup, in whose `compromised` is every key that it has to do with."""
    match entry.fact:
        case Note(kind=EventKind.BACKUP_MADE, facts=facts):
            try:
                made = read(BackupFacts, facts)
            except AuditError as error:
                return BackupTaken(entry.at, None, None, {}, False, (), (), (str(error),))  # noqa: FBT003
            return BackupTaken(
                at=entry.at,
                manifest=made.manifest,
                made_at=_made_at(made.manifest),
                keys=made.keys,
                has_dump=made.dump is not None,
                places=made.places,
                recipients=made.recipients,
                failures=(),
                compromised=(*made.keys, *made.dump_needs),
            )
        case BackupRekeyed() as rekeyed:
            target = {str(each.version): each.fingerprint for each in state.keys.values()}.get(str(rekeyed.target), "")
            return BackupTaken(
                at=entry.at,
                manifest=rekeyed.manifest,
                made_at=None,
                keys={str(rekeyed.target): target},
                has_dump=True,
                places=rekeyed.places,
                recipients=(),
                failures=rekeyed.failures,
                made_from=rekeyed.made_from,
                compromised=(str(rekeyed.target),),
            )
        case BackupIncomplete() as incomplete:
            has_dump = any(name.startswith("database-") for name in incomplete.files)
            return BackupTaken(
                entry.at, incomplete.manifest, None, {}, has_dump, incomplete.places, (), incomplete.failures
            )
        case _:
            return None


def _made_at(manifest: str) -> datetime | None:
    """The moment that a set shows, by the name of its signed manifest."""
    with suppress(ValueError):
        return stamped_at(stamp_in(manifest) or "")
    return None


def recovery_test_of(entry: HistoryEntry) -> RecoveryTested | None:
    """The recovery test that an event records."""
    match entry.fact:
        case Note(kind=EventKind.RECOVERY_TEST_PASSED, facts=facts):
            try:
                passed = read(RecoveryTestFacts, facts)
            except AuditError as error:
                return RecoveryTested(entry.at, "", str(error))
            return RecoveryTested(
                entry.at,
                passed.place,
                None,
                rto_seconds=passed.rto_seconds,
                rto_allowed_seconds=passed.objectives.get("rto_seconds"),
                rpo_seconds=passed.rpo_seconds,
                rpo_allowed_seconds=passed.objectives.get("rpo_seconds"),
            )
        case RecoveryTestFailed() as failed:
            return RecoveryTested(entry.at, failed.place, failed.reason)
        case _:
            return None
