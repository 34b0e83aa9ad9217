"""Answers about backups and recovery tests: each from the facts of one report, with the records that it rests on."""

from datetime import timedelta

from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.backups import BACKUP_STALE_AFTER, TEST_OVERDUE_AFTER
from keyrotation_pipeline.reporting.answers import (
    NO_ROTATION,
    Answer,
    Record,
    by_records,
    not_applicable,
    nothing_recorded,
)
from keyrotation_pipeline.reporting.compliance import ComplianceReport
from keyrotation_pipeline.reporting.keys_in_audit import HELD
from keyrotation_pipeline.reporting.sections import BackupTaken, MemberProtected, RecoveryTested
from keyrotation_pipeline.reporting.wording import lasting, listed, when

PLACES_REQUIRED = 2
LOOKED_WITHIN = timedelta(days=1)
_AT_THE_SERVER = (
    "; of keys that a server holds it has only what tells them from others: they are that server's to back up"
)


def backup_complete(report: ComplianceReport) -> Answer:
    """Whether the newest backup of the present state is complete."""
    made = [each for each in report.backups if each.made_from is None]
    if not made:
        return nothing_recorded("no backup was ever made; run `keyrotation backup`")
    held = _is_held(report)
    lacking = [each.name for each in report.members if each.name not in made[-1].members]
    without = f"; without a dump of {listed(lacking)}" if lacking else ""
    said = f"{_described(made[-1])}{without}{_AT_THE_SERVER if held else ''}"
    complete = made[-1].is_complete and not lacking
    return by_records([_record(made[-1], said, holds=complete and not held, known=not (complete and held))])


def backup_elsewhere(report: ComplianceReport) -> Answer:
    """Whether the newest complete backup is in more than one place."""
    if (last := _newest(report)) is None:
        return _no_backup()
    enough = len(set(last.places)) >= PLACES_REQUIRED
    return by_records([_record(last, f"it was stored in {listed(last.places)}", holds=enough)])


def backup_found(report: ComplianceReport) -> Answer:
    """Whether somebody looked within the last day, and found the newest complete backup in all of its places."""
    if (last := _newest(report)) is None:
        return _no_backup()
    if (look := report.backups_found) is None:
        return nothing_recorded("nobody looked whether it is there; run `keyrotation report`, which does")
    is_fresh = report.as_of - look.at <= LOOKED_WITHIN
    missing = sorted(set(last.places) - set(look.places))
    if look.manifest != last.manifest:
        found = f"not found in every place: {'; '.join(look.problems) or 'it is gone'}"
    elif missing:
        found = f"found in {listed(look.places)}; {listed(missing)} was not looked at"
    else:
        found = f"found in {listed(look.places)}, its signed manifest, and its other files by name and size"
    said = f"looked for on {when(look.at)}{'' if is_fresh else ', more than a day before'}: {found}"
    name = last.manifest or "backup"
    is_there = look.manifest == last.manifest
    known = is_fresh and bool(look.places) and (not missing if is_there else look.at >= last.at)
    return by_records([Record(name, f"{name}: {said}", look.at, is_fresh and is_there and not missing, known)])


def backup_has_active_key(report: ComplianceReport) -> Answer:
    """Whether the newest complete backup holds the active key itself."""
    if (last := _newest(report)) is None:
        return _no_backup()
    if (key := report.active_key) is None:
        return nothing_recorded("no key is active; run `keyrotation init`")
    held = _is_held(report)
    said = f"it holds {listed(last.keys)}; {key.version} ({key.fingerprint[:16]}) is active"
    has_it = last.keys.get(key.version) == key.fingerprint
    said = f"{said}{_AT_THE_SERVER if held else ''}"
    return by_records([_record(last, said, holds=has_it and not held, known=not (has_it and held))])


def backup_after_rotation(report: ComplianceReport) -> Answer:
    """Whether a complete backup was begun after the last rotation or rollback ended."""
    ended = [each for each in report.requests if each.steps and each.status == "finished" and each.finished_at]
    if not ended:
        return not_applicable(NO_ROTATION)
    walk = max(ended, key=lambda each: each.finished_at or each.requested_at)
    if (last := _newest(report)) is None or walk.finished_at is None or last.made_at is None:
        return _no_backup()
    said = f"{walk.action} {walk.id} to {walk.target} ended {when(walk.finished_at)}; the backup begun then or later"
    # Names of sets have whole seconds.
    holds = last.made_at >= walk.finished_at.replace(microsecond=0)
    return by_records([_record(last, f"{said}: {when(last.made_at) if holds else 'none'}", holds=holds)])


def backup_daily(report: ComplianceReport) -> Answer:
    """Whether the newest complete backup is of the last day."""
    if (last := _newest(report)) is None or last.made_at is None:
        return _no_backup()
    holds = report.as_of - last.made_at <= BACKUP_STALE_AFTER
    said = f"it is of {when(last.made_at)}, and this is the state of {when(report.as_of)}"
    return by_records([_record(last, said, holds=holds)])


def backup_encrypted(report: ComplianceReport) -> Answer:
    """Whether the newest complete backup names the certificates that it is encrypted to."""
    if (last := _newest(report)) is None:
        return _no_backup()
    named = bool(last.recipients)
    return by_records([_record(last, f"encrypted to {listed(last.recipients)}", holds=named, known=named)])


def _is_held(report: ComplianceReport) -> bool:
    return any(key.origin == HELD for key in report.keys)


def _newest(report: ComplianceReport) -> BackupTaken | None:
    return next((each for each in reversed(report.backups) if each.is_complete), None)


def _no_backup() -> Answer:
    return nothing_recorded("no complete backup is on record; run `keyrotation backup`")


def _record(backup: BackupTaken, said: str, *, holds: bool, known: bool = True) -> Record:
    name = backup.manifest or "backup"
    return Record(name, f"{name}: {said}", backup.at, holds, known)


def _described(backup: BackupTaken) -> str:
    return (
        f"keys {listed(backup.keys)}, {'with' if backup.has_dump else 'without'} a dump of the database"
        f"{f' and of {listed(backup.members)}' if backup.members else ''}, in "
        f"{listed(backup.places)}; {'; '.join(backup.failures) or 'complete'}"
    )


def recovery_tested(report: ComplianceReport) -> Answer:
    """Whether the newest recovery test passed."""
    if not report.recovery_tests:
        return _no_test(report)
    last = report.recovery_tests[-1]
    said = f"recovery test from {last.place}: {last.failure or _restored(last)}"
    return by_records([Record("recovery test", said, last.at, last.failure is None)])


def _restored(test: RecoveryTested) -> str:
    rows = sum(test.rows.values())
    members = f", and the dump of {listed(test.members)}" if test.members else ""
    return (
        f"passed: restored {test.manifest} into the scratch server {test.scratch_server}, with "
        f"{counted(rows, 'row')} of {counted(len(test.rows), 'declared table')}{members}"
    )


def recovery_tested_quarterly(report: ComplianceReport) -> Answer:
    """Whether a recovery test passed within a quarter."""
    if (last := passed_test(report)) is None:
        return _no_test(report)
    said = f"the last one that passed is of {when(last.at)}, from {last.place}"
    own = Record("recovery test", said, last.at, report.as_of - last.at <= TEST_OVERDUE_AFTER)
    return by_records([own, *(_member_tested(each, report) for each in report.members)])


def _member_tested(member: MemberProtected, report: ComplianceReport) -> Record:
    at = member.tested_at
    said = f"{member.name} ({member.place}): {'never restored by a test' if at is None else f'restored on {when(at)}'}"
    holds = at is not None and report.as_of - at <= TEST_OVERDUE_AFTER
    return Record(f"recovery test of {member.name}", said, at or report.since, holds)


def recovery_objectives_met(report: ComplianceReport) -> Answer:
    """Whether RTO and RPO were measured, and are within their objectives, those of the test and those of now."""
    if (last := passed_test(report)) is None:
        return _no_test(report)
    stated = report.parameters.stated
    measured = (
        ("RTO", last.rto_seconds, last.rto_allowed_seconds, stated.rto_seconds),
        ("RPO", last.rpo_seconds, last.rpo_allowed_seconds, stated.rpo_seconds),
    )
    within = [
        None if took is None or allowed is None else took <= min(allowed, allowed if now is None else now)
        for _, took, allowed, now in measured
    ]
    said = "; ".join(
        f"{name} {lasting(took)}, allowed {lasting(allowed, 'nothing')}"
        + (f", and {lasting(now)} by now" if now is not None and now != allowed else "")
        for name, took, allowed, now in measured
    )
    return by_records([Record("recovery test", said, last.at, all(within), all(within) or False in within)])


def passed_test(report: ComplianceReport) -> RecoveryTested | None:
    """The newest recovery test that passed; None: none ever did."""
    return next((each for each in reversed(report.recovery_tests) if each.failure is None), None)


def _no_test(report: ComplianceReport) -> Answer:
    stated = report.parameters.stated
    named = (("RTO", stated.rto_seconds), ("RPO", stated.rpo_seconds))
    objectives = "".join(f"; the {name} objective is {lasting(seconds)}" for name, seconds in named if seconds)
    return nothing_recorded(f"no recovery test ever passed; run `keyrotation recovery-test --key FILE`{objectives}")
