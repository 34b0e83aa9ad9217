"""Protection against loss, for `status`: the newest backup, the last recovery test, and problems with them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from keyrotation_pipeline.audit.events import AuditEntry, entries, newest_first
from keyrotation_pipeline.backups import completeness
from keyrotation_pipeline.backups.member_dumps import never_dumped
from keyrotation_pipeline.backups.member_tests import overdue
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind, utc_minute
from keyrotation_pipeline.model.backup_events import BackupIncomplete
from keyrotation_pipeline.model.backups import BACKUP_STALE_AFTER, TEST_OVERDUE_AFTER
from keyrotation_pipeline.model.key_events import RecoveryTestDue, RecoveryTestFailed
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.ports.backups import BackupVault
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline

_LIVE = frozenset({KeyState.PRE_ACTIVATION, KeyState.ACTIVE, KeyState.DEACTIVATED})
_TESTS = (EventKind.RECOVERY_TEST_PASSED, EventKind.RECOVERY_TEST_FAILED, EventKind.RECOVERY_TEST_DUE)


@dataclass(frozen=True, slots=True)
class Protection:
    """When the newest complete backup was made and the last test passed, and a sentence for each problem.

    Args:
        recovery_test_failed: when the last test failed; None: it passed, or there was none.
        backup_versions: the key versions that the newest complete backup holds.
        attention: what must be fixed now (red).
        warnings: what must be fixed soon (amber).
    """

    last_backup: datetime | None
    last_recovery_test: datetime | None
    recovery_test_failed: datetime | None
    attention: tuple[str, ...]
    warnings: tuple[str, ...]
    backup_versions: tuple[KeyVersion, ...] = ()


def protection(pipeline: Pipeline, records: Sequence[KeyRecord], now: datetime) -> Protection:
    """Checks the backups, the certificates, and the recovery tests in the audit."""
    lights = backup_lights(pipeline, records, now)
    tests = recovery_tests(pipeline.ledger, records, now)
    # A place that did not answer is not asked again.
    unbacked = () if lights.is_silent else _unbacked(pipeline.vault, records)
    red = tuple(dict.fromkeys((*lights.attention, *unbacked, *tests.problems)))
    return Protection(lights.last, tests.passed, tests.failed, red, lights.warnings, lights.versions)


@dataclass(frozen=True, slots=True)
class RecoveryTests:
    """When the last test passed, and the last one failed if none has passed since; a sentence for each problem."""

    passed: datetime | None
    failed: datetime | None
    problems: tuple[str, ...]


def recovery_tests(ledger: Ledger, records: Sequence[KeyRecord], now: datetime) -> RecoveryTests:
    """The recovery tests, by the audit."""
    last: dict[str, AuditEntry] = {entry.kind: entry for entry in entries(ledger, *_TESTS)}
    passed, failed = last.get(EventKind.RECOVERY_TEST_PASSED), last.get(EventKind.RECOVERY_TEST_FAILED)
    if failed is not None and passed is not None and failed.seq < passed.seq:
        failed = None
    at = None if passed is None else passed.at
    problems = tuple(_test_problems(failed, last.get(EventKind.RECOVERY_TEST_DUE), at, _since(records, now), now))
    return RecoveryTests(at, None if failed is None else failed.at, (*problems, *overdue(ledger, now)))


@dataclass(frozen=True, slots=True)
class BackupLights:
    """The newest complete backup, and the red and amber sentences about backups.

    Args:
        is_silent: a place does not answer.
        versions: the key versions that the newest complete backup holds.
    """

    last: datetime | None
    attention: tuple[str, ...]
    warnings: tuple[str, ...]
    is_silent: bool = False
    versions: tuple[KeyVersion, ...] = ()


def backup_lights(pipeline: Pipeline, records: Sequence[KeyRecord], now: datetime) -> BackupLights:
    """What `status` and the check `backup_decrypts` both say.

    A set of another pipeline is red, and so is the newest one in a place that does not show it any more. A backup that
    is incomplete is amber at once, and red when there was no complete one for a day. A certificate that ends within
    sixty days is amber, one that can no longer be encrypted to is red.
    """
    certificates = pipeline.signatures.certificates()
    red = [each.unusable for each in certificates if each.unusable is not None and each.encrypts]
    amber = [message for each in certificates if (message := each.ends_soon(now)) is not None]
    try:
        found = pipeline.vault.status(records)
    except BackupError as error:  # the place does not answer, which must not hide the rest of the status
        return BackupLights(None, (*red, str(error)), tuple(dict.fromkeys(amber)), is_silent=True)
    incomplete = [*_last_failures(pipeline.ledger), *found.problems]
    if now - (found.last or _since(records, now)) > BACKUP_STALE_AFTER:
        red += [_stale(found.last), *incomplete]
    else:
        amber += incomplete if found.last or incomplete else [_stale(None)]
    missing, expected = completeness.backup_lights(pipeline.ledger, found.last, now)
    red, amber = [*red, *missing], [*amber, *expected]
    if never := [f"{each}; run `keyrotation backup`" for each in never_dumped(pipeline.ledger)]:
        (amber if _was_whole(pipeline.ledger, now) else red).extend(never)
    red += (*found.changed, *found.unknown)
    amber += found.unexamined
    attention, warnings = tuple(dict.fromkeys(red)), tuple(dict.fromkeys(amber))
    return BackupLights(found.last, attention, warnings, versions=found.versions)


def _stale(last: datetime | None) -> str:
    if last is None:
        return "no backup of keys and database is complete in every place; run `keyrotation backup`"
    return (
        f"the last backup is of {utc_minute(last)}: the last with keys and database, complete in every place; "
        "run `keyrotation backup`, or `keyrotation up`"
    )


def _since(records: Sequence[KeyRecord], now: datetime) -> datetime:
    """When the first key that needs a backup was created."""
    return min((record.created_at for record in records), default=now)


def _last_failures(ledger: Ledger) -> Iterator[str]:
    """What the last backup lacks, by the audit; nothing if it was complete. One of keys alone fixes no failed dump."""
    made = newest_first(ledger, EventKind.BACKUP_MADE, EventKind.BACKUP_INCOMPLETE)
    last = next((each for each in made if each.kind == EventKind.BACKUP_INCOMPLETE or each.facts.get("dump")), None)
    if last is not None and last.kind == EventKind.BACKUP_INCOMPLETE:
        for failure in read(BackupIncomplete, last.facts).failures:
            yield f"the backup of {utc_minute(last.at)} was incomplete ({failure}); run `keyrotation backup` again"


def _was_whole(ledger: Ledger, now: datetime) -> bool:
    """Whether a backup made within a day held every database that there was: a member may have joined since."""
    made = (each.at for each in newest_first(ledger, EventKind.BACKUP_MADE) if each.facts.get("dump"))
    return now - next(made, datetime.min.replace(tzinfo=UTC)) <= BACKUP_STALE_AFTER


def _unbacked(vault: BackupVault, records: Sequence[KeyRecord]) -> Iterator[str]:
    for record in records:
        try:
            backup = vault.key_backup(record.version, record.fingerprint)
        except BackupError as error:
            yield str(error)
            return
        # A rotation that has just made the key is about to back it up.
        if backup is None and record.state in _LIVE:
            yield f"{record.version} has no intact backup; run `keyrotation backup`"


def _test_problems(
    failed: AuditEntry | None, due: AuditEntry | None, passed: datetime | None, since: datetime, now: datetime
) -> Iterator[str]:
    """What the last event of each kind says."""
    if failed is not None:
        yield f"the last recovery test failed: {read(RecoveryTestFailed, failed.facts).reason}"
    if due is not None and (passed is None or due.at > passed):
        day = read(RecoveryTestDue, due.facts).since
        yield f"a recovery test is due since {day}; run `keyrotation recovery-test --key FILE`"
    elif now - (passed or since) > TEST_OVERDUE_AFTER:
        when = f"was on {passed:%Y-%m-%d}" if passed else "has never been made"
        yield f"the last recovery test {when}; run `keyrotation recovery-test`"
