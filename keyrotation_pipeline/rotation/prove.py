"""Proves that nothing is left under an old key version: sweeps, decrypts and counts everything, and adds the fences.

Each part may run again from the start at any time: sweeps then find nothing, and an intact fence is left unchanged.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from keyrotation_pipeline.errors import BlockedError, ProofError, StaleWriterError
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import CLOSED, NOT_A_VALUE
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.members import Listed
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.proof import NAMED_AT_MOST, DecryptedCount, Proven, not_encrypted
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, OldRows
from keyrotation_pipeline.ports.database import TableFencing
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation.reencrypt import ring_fit_for_rows

QUICK_SWEEPS = 2


def require_listed(listed: Callable[[], Listed]) -> None:
    """Refuses to prove anything while a rule of a fleet lists a database that is no member.

    Raises:
        BlockedError: names it.
        PreflightError: which databases there are cannot be told.
    """
    if unjoined := listed().unjoined:
        raise BlockedError("; ".join(Listed(unjoined).sentences))


def prove_zero_old_rows(pipeline: Pipeline, rotation: Walk, report: Report) -> Proven:
    """Brings every declared table to zero old values, decrypts all of it, and fences it against all retired versions.

    Returns:
        What was found; retirement waits until no snapshot can show a value from before it.

    Raises:
        OutOfOrderError, KeyStoreError, BackupError: the target key is not one that rows may be written under.
        StaleWriterError: old values were written since promotion; names who writes them.
        ProofError: a value is in quarantine, unencrypted or does not decrypt; names table, column and count.
        BlockedError: rows stay locked, or a table cannot be fenced; names who holds it.
    """
    require_listed(pipeline.listed)
    retired, ring = retired_versions(pipeline.ledger, rotation), ring_fit_for_rows(pipeline, rotation)
    refuses_writers = any(table.format.identified_by.refuses_writers for table in pipeline.tables)
    if refuses_writers:  # this fence minds no old values, and with it nobody adds any
        _fence(pipeline, rotation, retired, report)
    swept = {str(table.name): _sweep(pipeline, rotation, table, ring, retired, report) for table in pipeline.tables}
    decrypted = [_decrypt(pipeline, rotation, table, ring, report) for table in pipeline.tables]
    _require_empty_quarantine(pipeline)
    if refuses_writers:
        _require_all_under(rotation, decrypted)
    counted = zip(pipeline.tables, decrypted, strict=True)
    pipeline.ledger.save_counts(
        tuple(each.of_table(table, fenced_against=pipeline.fencing.fences(table)) for table, each in counted)
    )
    _fence(pipeline, rotation, retired, report)
    position = pipeline.evidence.position()
    identified_by = pipeline.tables[0].format.identified_by
    return Proven(
        position,
        retired,
        swept,
        sum(each.values for each in decrypted),
        identified_by=identified_by,
    )


def retired_versions(ledger: Ledger, rotation: Walk) -> tuple[KeyVersion, ...]:
    """Every version ever registered but the target: what must have no values, and what the fences refuse.

    And plaintext, where it is what the rotation starts from.
    """
    versions = tuple(record.version for record in ledger.keys() if record.version != rotation.target)
    return (PLAINTEXT, *versions) if rotation.source == PLAINTEXT else versions


def _fence(pipeline: Pipeline, rotation: Walk, retired: tuple[KeyVersion, ...], report: Report) -> None:
    """Fences every table; tables that are locked come last.

    Autovacuum gives way after a second and continues with the next table, where we would wait for it again.
    """
    later = []
    for table in pipeline.tables:
        report(_progress(table, "fencing"))
        if not pipeline.fencing.fence(table, retired, wait=False):
            later.append(table)
    for table in later:
        report(_progress(table, "waiting for its lock"))
        with _noted(pipeline.ledger, rotation, table, "waiting for a short lock on the table for its fence"):
            pipeline.fencing.fence(table, retired)


def _sweep(
    pipeline: Pipeline,
    rotation: Walk,
    table: EncryptedTable,
    ring: KeyRing,
    retired: tuple[KeyVersion, ...],
    report: Report,
) -> int:
    """Sweep while old rows are counted: at most twice without waiting for locked ones, then wait for those left.

    Counting is cheaper than sweeping. Damaged values without an old version's prefix are found by the full decrypt.

    Returns:
        The rows rewritten.
    """
    report(_progress(table, "counting old rows"))
    rewritten, remaining = 0, _old_rows(pipeline.fencing, rotation, table, retired)
    if not remaining.any:
        return rewritten
    for sweep in range(QUICK_SWEEPS + 1):
        waiting = sweep == QUICK_SWEEPS
        report(_progress(table, "waiting for the last rows" if waiting else f"sweep {sweep + 1}"))
        with (
            _noted(pipeline.ledger, rotation, table, "waiting for rows that others hold") if waiting else nullcontext()
        ):
            rewritten += pipeline.rewriting.sweep(rotation.id, table, ring, rotation.target, wait=waiting).rows
        remaining = _old_rows(pipeline.fencing, rotation, table, retired)
        if not remaining.any:
            return rewritten
    _lift_fences(pipeline.fencing, table, retired)
    raise _refusal(pipeline, rotation, table, remaining)


def _old_rows(fencing: TableFencing, rotation: Walk, table: EncryptedTable, retired: tuple[KeyVersion, ...]) -> OldRows:
    found = fencing.old_rows(table, retired, rotation.promotion_xid)
    return found if rotation.encrypts_plaintext else found.without_plaintext


def _lift_fences(fencing: TableFencing, table: EncryptedTable, retired: tuple[KeyVersion, ...]) -> None:
    if table.format.identified_by.refuses_writers:
        return  # nobody who may write is kept from updating these rows
    # Fences of a process that died before validating them would keep the application from updating these rows.
    for version in retired:
        if fencing.old_rows(table, [version], None).rows:
            fencing.unfence(table, version)


def _refusal(pipeline: Pipeline, rotation: Walk, table: EncryptedTable, remaining: OldRows) -> BlockedError:
    # A row with a quarantined value keeps its old values, and any update of it looks like a stale writer's.
    _require_empty_quarantine(pipeline)
    if remaining.plaintext and not remaining.rows:
        return StaleWriterError(
            f"table {table.name}: values in {table.old_form} are written again and again, or held locked, in "
            f"{counted(remaining.plaintext, 'row')}; {_stale_writers(pipeline, rotation, table)}"
        )
    if not remaining.rows:
        return StaleWriterError(
            f"table {table.name}: {counted(remaining.unindexed, 'row')} with a value that has no search index "
            "under its key; find what writes or locks such rows, then run this step again"
        )
    if remaining.written_since_promotion:
        return StaleWriterError(
            f"table {table.name}: {counted(remaining.written_since_promotion, 'row')} written under an old key "
            f"version after {rotation.target} became primary; {_stale_writers(pipeline, rotation, table)}"
        )
    lockers = _some(pipeline.fencing.sessions(table))
    return BlockedError(
        f"table {table.name}: {counted(remaining.rows, 'row')} with old values cannot be locked; check {lockers}; "
        "wait until their transactions end, then run this step again"
    )


def _stale_writers(pipeline: Pipeline, rotation: Walk, table: EncryptedTable) -> str:
    stale = [
        f"{each.name} (writes {each.writes or 'what is not known'})"
        for each in pipeline.rollout.instances()
        if each.writes != rotation.target
    ]
    if stale:
        return f"restart {_some(stale)}, then run this step again"
    sessions = _some(pipeline.fencing.sessions(table))
    return (
        f"every known instance writes {rotation.target}, so check {sessions}; stop the writer, then run this step again"
    )


def _decrypt(
    pipeline: Pipeline, rotation: Walk, table: EncryptedTable, ring: KeyRing, report: Report
) -> DecryptedCount:
    """Decrypts every value of a table; those that fail go to the quarantine, which names them better than a count."""
    decrypted = pipeline.rewriting.decrypt_all(table, ring, report, rotation.id)
    if decrypted.failures:
        _require_encrypted(pipeline)
        _require_empty_quarantine(pipeline)
        raise ProofError(
            f"table {table.name} ({', '.join(table.columns)}): {counted(decrypted.failures, 'value')} cannot be "
            "decrypted; fix or remove them (`keyrotation verify` finds them), then run this step again"
        )
    if decrypted.wrongly_indexed:
        raise ProofError(f"{decrypted.wrong_indexes}, then run this step again")
    for place in table.places if table.gives_back else ():
        if held := sum(decrypted.by_column.get(place.name, {}).values()):
            raise StaleWriterError(
                f"table {table.name}, column {place.name}: {counted(held, 'value')} encrypted again meanwhile; "
                f"{_stale_writers(pipeline, rotation, table)}"
            )
    for column, number in decrypted.unencrypted.items() if rotation.encrypts_plaintext else ():
        raise StaleWriterError(
            f"table {table.name}, column {column}: {counted(number, 'value')} written in {table.old_form} "
            f"meanwhile; {_stale_writers(pipeline, rotation, table)}"
        )
    return decrypted


def _require_all_under(rotation: Walk, decrypted: Sequence[DecryptedCount]) -> None:
    for table in decrypted:
        for column, held in table.by_column.items():
            if old := {version: number for version, number in held.items() if version != rotation.target}:
                listed = ", ".join(f"{number} under {version}" for version, number in old.items())
                raise StaleWriterError(
                    f"table {table.table}, column {column}: somebody wrote {listed}; restart the instance that has an "
                    "older key, then run this step again"
                )


def _require_encrypted(pipeline: Pipeline) -> None:
    # Reading the quarantine drops fixed entries, which the count then leaves out.
    entries = pipeline.inventory.quarantine(pipeline.tables)
    counts = pipeline.inventory.count(pipeline.tables)
    pipeline.ledger.save_counts(counts)
    for count in counts:
        for column, number in count.unencrypted_by_column.items():
            if number:
                held = [
                    each for each in entries if each.table == count.table.name and each.defect in {NOT_A_VALUE, CLOSED}
                ]
                rows = [each.key for each in held if each.column == column or _is_element(each.column, column)]
                raise ProofError(
                    f"{not_encrypted(str(count.table.name), column, number, rows)}; encrypt or remove them "
                    "(`keyrotation inventory` lists them), then run this step again"
                )


def _is_element(name: str, column: str) -> bool:
    """Returns whether ``tags[3]`` is one of ``tags[]``."""
    return column.endswith("[]") and name.startswith(column[:-1])


def _require_empty_quarantine(pipeline: Pipeline) -> None:
    entries = pipeline.inventory.quarantine(pipeline.tables)
    if not entries:
        return
    places = Counter((str(entry.table), entry.column, entry.reason) for entry in entries)
    named = [
        f"table {table}, column {column}: {counted(number, 'value')} ({reason})"
        for (table, column, reason), number in places.items()
    ]
    raise ProofError(
        f"values are in quarantine: {_some(named)}; fix or remove them (`keyrotation inventory` lists them), "
        "then run this step again"
    )


@contextmanager
def _noted(ledger: Ledger, rotation: Walk, table: EncryptedTable, waiting_for: str) -> Iterator[None]:
    """Records a possible wait, for `status` to show."""
    ledger.note_wait(rotation.id, str(table.name), waiting_for)
    try:
        yield
    finally:
        ledger.end_wait(rotation.id, str(table.name))


def _some(names: list[str] | tuple[str, ...]) -> str:
    more = len(names) - NAMED_AT_MOST
    shown = "; ".join(names[:NAMED_AT_MOST]) or "sessions that have just ended"
    return f"{shown} and {more} more" if more > 0 else shown


def _progress(table: EncryptedTable, note: str) -> Progress:
    return Progress(Step.ZERO_OLD_ROWS_PROOF, str(table.name), 0, 0, note=note)
