"""Evidence by decrypting, where SQL cannot tell a value's key: everything opens with the new key alone.

Outside of the retiring transaction every value is decrypted with the new key alone, and then again and again what was
written meanwhile, until that is little. Inside, while nobody can write, what was written since is decrypted once more.
Relations that are too large to be read inside are not locked, and only their new pages are read there.
A row counts as written since by its `xmin`: not below the oldest transaction that was in progress when the reading
before began, since what that did not see was written by such a transaction or a later one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all
from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys, check_rows, required
from keyrotation_pipeline.adapters.postgres.inventory import relations
from keyrotation_pipeline.adapters.postgres.inventory.counts import unindexed_rows, written_since
from keyrotation_pipeline.adapters.postgres.inventory.scans import countable, from_page
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, FenceError, ProofError
from keyrotation_pipeline.fieldcrypto.codecs.format import column_rewriters, format_of
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import Defect, DefectKind
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.tables import EncryptedTable

# Decrypted within a tenth of a second. The application's writers wait for that, for reading through the relations that
# are locked, and then until the key store has answered.
MOST_VALUES_LEFT = 5000
_READINGS = 8
_OLDEST = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


def new_key_alone(keys: CurrentKeys | None, table: EncryptedTable, retired: Sequence[KeyVersion]) -> KeyRing:
    """Returns a ring of nothing but the primary.

    Raises:
        ProofError: the primary is to be retired.
        PreflightError: there are no keys here.
    """
    ring = required(keys, table).ring()
    if ring.primary in retired:
        raise ProofError(f"the key store names {ring.primary} as primary, which is to be retired; run this step again")
    return KeyRing({ring.primary: ring.material(ring.primary)}, ring.primary)


def search(
    connection: Connection,
    keys: CurrentKeys | None,
    table: EncryptedTable,
    retired: Sequence[KeyVersion],
    report: Report,
) -> tuple[int, int]:
    """Decrypts all of a table with the new key alone, then what was written meanwhile, until that is little.

    Returns:
        How many values there were, and the transaction id from which on rows must be read again.

    Raises:
        FenceError, ProofError: a value does not open with it.
        BlockedError: more is written than can be decrypted.
        PreflightError: something cannot be read to its end.
    """
    alone, given = new_key_alone(keys, table, retired), required(keys, table)
    since = oldest_in_progress(connection)
    decrypted = decrypt_all(given.connect, table, alone, report, given.limits)
    if decrypted.failures:
        _refuse(given, table, retired, decrypted.failures)
    if decrypted.wrongly_indexed:
        raise ProofError(f"{decrypted.wrong_indexes}, then run this step again")
    if unindexed := unindexed_rows(connection, table, alone.primary):
        raise FenceError(
            f"table {table.name}: {unindexed} row(s) hold a value without a search index under its key, so searches "
            "would miss them; find what writes them without one"
        )
    for _ in range(_READINGS):
        before, since = since, oldest_in_progress(connection)
        if require_written_since(connection, alone, table, before) <= MOST_VALUES_LEFT:
            return decrypted.values, since
    raise BlockedError(
        f"table {table.name} is written faster than what is written can be decrypted; run this step again at a "
        "quieter time"
    )


def oldest_in_progress(connection: Connection) -> int:
    """Returns the oldest transaction that is in progress, or the next one: whatever is not visible now is not older."""
    return cast("tuple[int]", connection.execute(_OLDEST).fetchone())[0]


def require_written_since(
    connection: Connection,
    alone: KeyRing,
    table: EncryptedTable,
    since: int | None,
    first_pages: Mapping[int, int] = MappingProxyType({}),
    whole: Sequence[int] = (),
) -> int:
    """Decrypts what was written since; returns how many values that was.

    Args:
        since: a full transaction id; None: all rows.
        first_pages: by oid, the page at which reading a relation begins; nothing before it is read.
        whole: the oids of relations of which every row is read.

    Raises:
        FenceError, ProofError: a value does not open with this key alone; counts them.
        PreflightError, BlockedError: as a count in SQL.
    """
    values, failed = 0, Counter[tuple[str, Defect]]()
    columns = column_rewriters(format_of(table.format), alone, alone.primary, table.labels)
    for relation in countable(connection, table):
        first = first_pages.get(relation.oid)
        if first is not None:
            where = from_page(first)
        elif since is None or relation.oid in whole:
            where = sql.SQL("")
        else:
            where = sql.SQL("WHERE {}").format(written_since(since))
        for held, failures in check_rows(connection, relation, columns, where):
            values += len(failures) + sum(each.total() - each[None] for each in held)
            failed.update((table.columns[each.column], each.defect) for each in failures)
    for (column, defect), number in failed.items():
        what = f"table {table.name}, column {column}: {number} value(s) that were written since the last full decrypt"
        if defect.kind is DefectKind.UNKNOWN_KEY:
            raise FenceError(f"{what} do not open with {alone.primary} alone; find what wrote them")
        raise ProofError(f"{what} are {defect}; fix or remove them, then run `keyrotation rotate` again")
    return values


def lock_writers_out(connection: Connection, table: EncryptedTable, tree: Sequence[relations.Relation]) -> None:
    """Waits for whoever is writing to relations, and lets nobody write to them until the transaction ends.

    Raises:
        BlockedError: a writer does not end within the session's `lock_timeout`.
    """
    try:
        for relation in tree:
            connection.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE MODE").format(relation.identifier))
    except psycopg.errors.LockNotAvailable:
        raise BlockedError(
            f"table {table.name} is being written by a transaction that does not end, or changed by another session; "
            "wait until that ends, then run this step again"
        ) from None


def _refuse(keys: CurrentKeys, table: EncryptedTable, retired: Sequence[KeyVersion], failures: int) -> None:
    """Says which of the values that do not open with the new key are under a retired one."""
    if rows := keys.old_rows(table, retired, None).rows:
        raise FenceError(
            f"table {table.name}: {rows} row(s) hold values under {' or '.join(map(str, retired))} again; find what "
            "wrote them: a transaction that began before the old login lost its right, or an instance with the new "
            "login and an old key"
        )
    raise ProofError(
        f"table {table.name}: {failures} value(s) do not decrypt; fix or remove them (`keyrotation inventory` lists "
        "them), then run `keyrotation rotate` again"
    )
