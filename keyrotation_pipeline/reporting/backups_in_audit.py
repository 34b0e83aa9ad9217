"""Backups and recovery tests as a report shows them: what the audit records of each, and whether that shows it."""

from collections.abc import Mapping, Sequence
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
    BackupsExamined,
    RecoveryTestFacts,
)
from keyrotation_pipeline.model.backups import member_in, stamp_in, stamped_at
from keyrotation_pipeline.model.key_events import RecoveryTestFailed
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.members import members_among
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.reporting.sections import BackupsFound, BackupTaken, MemberProtected, RecoveryTested

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
                members=tuple(made.members),
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
            has_dump = any(member_in(name) == "" for name in incomplete.files)
            return BackupTaken(
                entry.at, incomplete.manifest, None, {}, has_dump, incomplete.places, (), incomplete.failures,
                members=tuple(filter(None, map(member_in, incomplete.files))),
            )  # fmt: skip
        case _:
            return None


def _made_at(manifest: str) -> datetime | None:
    """The moment that a set shows, by the name of its signed manifest."""
    with suppress(ValueError):
        return stamped_at(stamp_in(manifest) or "")
    return None


def backups_found(entries: Sequence[HistoryEntry]) -> BackupsFound | None:
    """The newest look for them."""
    for each in reversed(entries):
        if isinstance(found := each.fact, BackupsExamined):
            return BackupsFound(each.at, found.manifest, found.places, found.problems)
    return None


def recovery_tests_of(entries: Sequence[HistoryEntry], state: LedgerState) -> tuple[RecoveryTested, ...]:
    """Every recovery test, oldest first; one whose record ties it to no restored backup has not passed."""
    sealed: dict[str, str] = {}
    servers = {_cluster_in(each): "the audited database" for each in {each.entry.database for each in entries}}
    found = []
    for entry in entries:
        if isinstance(entry.fact, BackupSealed):
            sealed[entry.fact.manifest] = entry.fact.sha256
        elif isinstance(failed := entry.fact, RecoveryTestFailed):
            found.append(RecoveryTested(entry.at, failed.place, failed.reason))
        elif isinstance(note := entry.fact, Note) and note.kind == EventKind.RECOVERY_TEST_PASSED:
            try:
                passed = read(RecoveryTestFacts, note.facts)
            except AuditError as error:
                found.append(RecoveryTested(entry.at, "", str(error)))
                continue
            doubt = _unshown(passed, sealed, servers)
            if state.signed_from is not None and entry.seq < state.signed_from:
                doubt = "it was recorded before the pipeline signed its audit"
            found.append(_tested(entry.at, passed, doubt))
            servers.setdefault(passed.scratch_server or "", f"the test of event {entry.seq}")
    return tuple(found)


def members_protected(
    hosts: Sequence[str], backups: Sequence[BackupTaken], tests: Sequence[RecoveryTested]
) -> tuple[MemberProtected, ...]:
    """Every signed member of a fleet: its newest dump, and its newest test that passed.

    Args:
        hosts: as officers signed them last.
        backups, tests: all that the audit has, oldest first.
    """
    dumped = {name: each for each in backups for name in each.members if NOT_SEALED not in each.failures}
    tested = {name: each.at for each in tests if each.failure is None for name in each.members}
    return tuple(
        MemberProtected(
            name,
            place,
            dumped[name].manifest if name in dumped else None,
            _made_at(dumped[name].manifest or "") if name in dumped else None,
            tested.get(name),
        )
        for name, place in members_among(hosts).items()
    )


def _cluster_in(database: str) -> str:
    return database.rpartition(", system identifier ")[2].partition(",")[0]


def _unshown(passed: RecoveryTestFacts, sealed: Mapping[str, str], servers: Mapping[str, str]) -> str | None:
    """Why a record does not show that a backup was restored for it; None: it does."""
    if passed.manifest is None or passed.sha256 is None or passed.scratch_server is None or passed.newest is None:
        return "its record does not say which set was restored into which server"
    if sealed.get(passed.manifest) != passed.sha256:
        return f"its record names a set {passed.manifest} that the audit did not have before"
    for each in passed.members:
        if each.sha256 is None or sealed.get(each.manifest) != each.sha256:
            return f"its record names a set {each.manifest} of {each.member} that the audit did not have before"
    if (other := servers.get(passed.scratch_server)) is not None:
        return f"its record names the server of {other}"
    return None


def _tested(at: datetime, passed: RecoveryTestFacts, doubt: str | None) -> RecoveryTested:
    return RecoveryTested(
        at,
        passed.place,
        None if doubt is None else f"not shown: {doubt}; run `keyrotation recovery-test`",
        rto_seconds=passed.rto_seconds,
        rto_allowed_seconds=passed.objectives.get("rto_seconds"),
        rpo_seconds=passed.rpo_seconds,
        rpo_allowed_seconds=passed.objectives.get("rpo_seconds"),
        manifest=passed.manifest,
        rows=passed.newest.rows if passed.newest else {},
        scratch_server=passed.scratch_server,
        members=tuple(each.member for each in passed.members),
    )
