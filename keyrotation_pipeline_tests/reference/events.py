"""Every kind of audit event, with what its record says."""

import inspect
from collections.abc import Iterator

from keyrotation_pipeline.audit import events as known  # which imports every record  # noqa: F401
from keyrotation_pipeline.model.audit import EventKind, Fact
from keyrotation_pipeline_tests.reference.markdown import code, in_markdown, listing, page_of

_INTRODUCTION = """
`keyrotation audit log` lists them, and `--json` shows the facts of each. An event is canonical JSON, chained by SHA-256
to its predecessor. None holds a key or content of a value. What ends in `_intended` is written before a step, and is
followed by its outcome.
"""
# Events that no code reads back; their facts are for people.
_FOR_PEOPLE = {
    EventKind.ROSTER_KEEPING_INTENDED: "The key store is about to name its owner.",
    EventKind.PACE_SET: "Somebody changed how fast a rotation goes, and why.",
    EventKind.KEY_RESTORED: "A lost key is in the key store again, or applications get that of a rollback again.",
    EventKind.KEY_BACKED_UP: "A key was encrypted to the recipients, stored in every place, and read back.",
    EventKind.KEY_LIST_DELIVERY_INTENDED: "The application's list of keys, which somebody had changed, is about to be "
    "written again; earlier confirmations no longer count.",
    EventKind.COMPROMISE_TELLING_INTENDED: "The versions that are compromised are about to be named in the key store.",
    EventKind.ROLLBACK_POST_MORTEM: "The source procedure's post-mortem of a rollback.",
    EventKind.UNSIGNED_BACKUP_TRUSTED: "An officer vouched for a backup without its signature.",
    EventKind.BACKUP_MADE: "A backup of keys and database, with its places and recipients.",
    EventKind.BACKUPS_REMOVAL_INTENDED: "Local files that are older than `keep_local_days` are about to be removed.",
    EventKind.RECOVERY_TEST_STARTED: "A recovery test began.",
    EventKind.RECOVERY_TEST_PASSED: "A recovery test passed: which set into which server, with rows, values and times.",
    EventKind.REHEARSAL_STARTED: "A rehearsal of a rotation began.",
    EventKind.REHEARSAL_FAILED: "A rehearsal could not be carried out.",
    EventKind.DATABASE_RESTORE_INTENDED: "A backup is about to be restored into a new database.",
    EventKind.DATABASE_RESTORED: "A backup was restored into a new database.",
    EventKind.RUN_FAILED: "A run of Dagster failed; where the cluster started no process for it, what refused that.",
    EventKind.COMPARISON_STARTED: "A comparison of the values with those of a backup began.",
    EventKind.COMPARISON_FAILED: "A comparison of the values with those of a backup failed.",
}


def page() -> str:
    """The page."""
    return page_of("Audit events", _parts())


def _parts() -> Iterator[str]:
    yield _INTRODUCTION
    records = {record.kind: record for record in _records(Fact)}
    yield listing((code(kind), _meaning(kind, records.get(kind))) for kind in EventKind)


def _records(of: type[Fact]) -> Iterator[type[Fact]]:
    for each in of.__subclasses__():
        if hasattr(each, "kind"):
            yield each
        yield from _records(each)


def _meaning(kind: EventKind, record: type[Fact] | None) -> str:
    if record is None:
        return _FOR_PEOPLE[kind]
    return in_markdown((inspect.getdoc(record) or "").partition("\n\n")[0]).partition(". ")[0].rstrip(".") + "."
