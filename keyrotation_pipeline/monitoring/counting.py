"""What `status` says of the last counts: their age, what is wrong in them, and what they cannot say."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from keyrotation_pipeline.audit.history import history
from keyrotation_pipeline.audit.retirements import retirement_of
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.keys import KeyRecord
from keyrotation_pipeline.model.requests import Request, Step, Walk
from keyrotation_pipeline.model.status import TableStatus
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation.fences import values_of_gone_keys

COUNTS_STALE_AFTER = timedelta(days=7)


def wrong(table: EncryptedTable, count: TableCount | None, records: Sequence[KeyRecord], now: datetime) -> list[str]:
    """A sentence for each thing that is wrong with a table by its last count, or with the count."""
    if count is None:
        return [f"table {table.name} was never counted; run `keyrotation status --count`"]
    sentences = []
    if now - count.counted_at > COUNTS_STALE_AFTER:
        sentences.append(
            f"table {table.name} was last counted on {count.counted_at:%Y-%m-%d}; run `keyrotation status --count`"
        )
    for number, what in ((count.unencrypted, "unencrypted"), (count.unreadable, "unreadable")):
        if number:
            sentences.append(
                f"table {table.name} holds {number} {what} value(s), which block retirement; "
                "run `keyrotation inventory`"
            )
    known = {record.version for record in records}
    for version, number in count.values_by_version.items():
        if number and version not in known:
            sentences.append(f"table {table.name} holds {number} value(s) under {version}, which nobody registered")
    return [*sentences, *values_of_gone_keys(count, records)]


def table_status(
    table: EncryptedTable,
    count: TableCount | None,
    records: Sequence[KeyRecord],
    fenced_against: tuple[KeyVersion, ...],
) -> TableStatus:
    """One table, with 0 for a registered version that the last count has not found."""
    values = {record.version: 0 for record in records} | count.values_by_version if count else {}
    ordered = {version: values[version] for version in sorted(values)}
    return TableStatus(table, count, ordered, fenced_against)


def empty_versions(
    pipeline: Pipeline,
    primary: KeyVersion | None,
    records: Sequence[KeyRecord],
    counts: Mapping[EncryptedTable, TableCount],
) -> tuple[tuple[KeyVersion, ...], tuple[KeyVersion, ...]]:
    """Registered versions without a value in any count, and those that became the primary after a count.

    The primary is never called empty: applications write under it.
    """
    if any(table not in counts for table in pipeline.tables) or not counts:
        return (), ()
    oldest = min(count.counted_at for count in counts.values())
    found = {version for count in counts.values() for version, held in count.values_by_version.items() if held}
    requests = pipeline.ledger.requests()
    promoted = tuple(each.version for each in records if _promoted_after(oldest, each.version, primary, requests))
    empty = tuple(each.version for each in records if each.version not in {*found, *promoted, primary})
    return empty, promoted


def _promoted_after(at: datetime, version: KeyVersion, primary: KeyVersion | None, requests: Sequence[Request]) -> bool:
    """Whether a rotation or rollback made a version the primary since, or is about to record that it did."""
    for walk in requests:
        if isinstance(walk, Walk) and walk.target == version:
            record = walk.done(Step.PRIMARY_KEY_ROLLOUT)
            if record.finished_at > at if record is not None else version == primary and not walk.is_over:
                return True
    return False


def unread(pipeline: Pipeline) -> Iterator[str]:
    """A sentence for each retirement of which something was not read again, until an inventory has read it."""
    entries = history(pipeline.ledger, EventKind.KEY_RETIRED, EventKind.UNDECLARED_COLUMNS_SEARCHED)
    for rotation in dict.fromkeys(each.request for each in entries if each.kind == EventKind.KEY_RETIRED):
        retired = retirement_of(entries, rotation or "")
        if retired is not None and retired.unread is not None:
            yield retired.unread
