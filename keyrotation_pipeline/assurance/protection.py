"""What protects against loss, for `status`: the newest backup, the last recovery test, and what is amiss with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyrotation_pipeline.audit.events import Entry, entries
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.model.events import EventKind
from keyrotation_pipeline.model.facts import read
from keyrotation_pipeline.model.key_events import RecoveryTestDue, RecoveryTestFailed
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.ports.pipeline import Pipeline

# A backup is made every night; a test every quarter, which has at most 92 days.
BACKUP_STALE_AFTER = timedelta(hours=26)
TEST_OVERDUE_AFTER = timedelta(days=100)
_LIVE = frozenset({KeyState.PRE_ACTIVATION, KeyState.ACTIVE, KeyState.DEACTIVATED})
_TESTS = (EventKind.RECOVERY_TEST_PASSED, EventKind.RECOVERY_TEST_FAILED, EventKind.RECOVERY_TEST_DUE)


@dataclass(frozen=True, slots=True)
class Protection:
    """When the newest backup was made and the last test passed; a sentence for each thing that is amiss."""

    last_backup: datetime | None
    last_recovery_test: datetime | None
    attention: tuple[str, ...]


def protection(pipeline: Pipeline, records: Sequence[KeyRecord], now: datetime) -> Protection:
    """Look at the key backups and at what the audit says of recovery tests."""
    made, amiss = _backups(pipeline, records)
    if made is not None and now - made > BACKUP_STALE_AFTER:
        amiss.append(f"the last backup is of {made:%Y-%m-%d %H:%M} UTC; run `keyrotation backup`, or `keyrotation up`")
    tests: dict[str, Entry] = {entry.kind: entry for entry in entries(pipeline.ledger, *_TESTS)}
    passed = tests[EventKind.RECOVERY_TEST_PASSED].at if EventKind.RECOVERY_TEST_PASSED in tests else None
    amiss += _tests_amiss(tests, passed, min((record.created_at for record in records), default=now), now)
    return Protection(made, passed, tuple(amiss))


def _backups(pipeline: Pipeline, records: Sequence[KeyRecord]) -> tuple[datetime | None, list[str]]:
    newest: list[datetime] = []
    amiss: list[str] = []
    for record in records:
        try:
            backup = pipeline.vault.key_backup(record.version, record.fingerprint)
        except BackupError as error:  # the place does not answer, which must not hide the rest of the status
            return max(newest, default=None), [str(error)]
        if backup is not None:
            newest.append(backup.made_at)
        elif record.state in _LIVE:  # a rotation that has just made the key is about to back it up
            amiss.append(f"{record.version} has no intact backup; run `keyrotation backup`")
    return max(newest, default=None), amiss


def _tests_amiss(tests: Mapping[str, Entry], passed: datetime | None, since: datetime, now: datetime) -> Iterator[str]:
    """What the last event of each kind says."""
    failed, due = tests.get(EventKind.RECOVERY_TEST_FAILED), tests.get(EventKind.RECOVERY_TEST_DUE)
    if failed is not None and (passed is None or failed.at > passed):
        yield f"the last recovery test failed: {read(RecoveryTestFailed, failed.facts).reason}"
    if due is not None and (passed is None or due.at > passed):
        day = read(RecoveryTestDue, due.facts).since
        yield f"a recovery test is due since {day}; run `keyrotation recovery-test --key FILE`"
    elif now - (passed or since) > TEST_OVERDUE_AFTER:
        told = f"was on {passed:%Y-%m-%d}" if passed else "has never been made"
        yield f"the last recovery test {told}; run `keyrotation recovery-test`"
