"""Collects the evidence that a key may be retired, inside the retiring transaction. Any doubt is a refusal.

The order matters. First the tables are locked until the transaction ends: nobody can ALTER them or attach anything to
them. Then they are counted and their fences are read, so the results stay true until the key is withdrawn. Readers and
writers do not notice these locks. Most of a large database was read just before (`search`), so the locks are held for
seconds, whatever its size.

Where only decrypting tells a key, writers are locked out last of all; then what was written during all that is
decrypted, and the fences are read once more. They wait from then until the transaction ends, that is, until the key
store has answered.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import cast

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys
from keyrotation_pipeline.adapters.postgres.evidence import all_fences, evidence_of
from keyrotation_pipeline.adapters.postgres.evidence.evidence import Evidence, ReadAgain
from keyrotation_pipeline.adapters.postgres.inventory import discovery, quarantine, relations
from keyrotation_pipeline.adapters.postgres.retirement import locks, replicas, snapshot_horizon
from keyrotation_pipeline.adapters.postgres.retirement.replicas import NONE_DECLARED, Replicas
from keyrotation_pipeline.adapters.postgres.retirement.search import RelationStates, read_again, require_nothing_found
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, FenceError, ProofError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.proof import Searched, SnapshotPosition, ZeroOldRows
from keyrotation_pipeline.model.tables import EncryptedTable

# By what transaction each relation was made. Whatever is done to a relation later, by a statement or manually, the rows
# of its system columns stay those of its creation.
_RELATION_XMINS = """
SELECT a.attrelid::bigint, array_agg(a.xmin::text::bigint)
FROM pg_attribute a WHERE a.attrelid = ANY (%s::bigint[]::oid[]) AND a.attnum < 0 GROUP BY a.attrelid
"""


def zero_old_rows(
    connection: Connection,
    tables: Sequence[EncryptedTable],
    version: KeyVersion,
    retired: Sequence[KeyVersion],
    position: SnapshotPosition,
    declared: Replicas = NONE_DECLARED,
    searched: Searched | None = None,
    keys: CurrentKeys | None = None,
) -> ZeroOldRows:
    """Collects the evidence that nothing under `version` (or any of `retired`) is left or can still be shown.

    Args:
        connection: inside a READ COMMITTED transaction, which the caller ends.
        tables: all declared tables.
        version: the version to retire.
        retired: every version that the fences must name, `version` among them.
        position: taken after the fences were validated.
        declared: the configured replicas.
        searched: what was read just before; then only small, new or changed relations are read here. None: all are.
        keys: for tables whose values SQL cannot tell apart; nobody can write to these from the last decrypt until the
            transaction ends, except to relations that are too large to be read here.

    Raises:
        ProofError: an unencrypted value, a finding, a quarantined value, or an unsuitable transaction.
        FenceError: an old value; a fence that is missing, not validated, altered, or younger than the moment.
        DefinitionChangedError: rights, or the definition of a table, whose catalog rows are younger than the moment.
        BlockedError: something could still show an old value; or a change since `searched` is large.
    """
    _require_read_committed(connection)
    versions = tuple(sorted({*retired, version}))
    # All tables have the same keys: a key store elsewhere is asked once.
    once = keys and replace(keys, ring=cache(keys.ring))
    evidence = [evidence_of(connection, table, once) for table in tables]
    for each in evidence:
        each.prepare(versions)
    lock_tables(connection, tables)
    now = None if searched is None else RelationStates.now(connection, tables)
    again = ReadAgain() if searched is None or now is None else read_again(now, searched)
    values = sum(each.require_zero(versions, again) for each in evidence)
    _require_fences(connection, tables, versions, position.xid)
    require_nothing_found(discovery.discover(connection, tables, again.first), retired)
    _require_empty_quarantine(connection, tables)
    if found := snapshot_horizon.blockers(connection, position.xid, position.lsn, declared):
        raise BlockedError("; ".join(found))
    locked_out = [each.table for each in evidence if each.lock_out(again)]
    # Before writers were locked out, an old login may have had its right again, and replaced what it wrote.
    _require_fences(connection, locked_out, versions, position.xid)
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    proven_at = row[0] if row else None
    if not isinstance(proven_at, datetime):
        raise ProofError("the database returned no time; run this step again")
    names = tuple(str(table.name) for table in tables)
    seen = replicas.accounted(connection, declared)
    not_read_again = tuple(sorted(searched.labels[oid] for oid in again.first)) if searched else ()
    return ZeroOldRows(
        version,
        names,
        0,
        values,
        position.lsn,
        proven_at,
        seen,
        not_read_again,
        sum(each.plaintext for each in evidence) + (searched.plaintext if searched else 0),
        relations="" if now is None else now.digest,
    )


def _require_read_committed(connection: Connection) -> None:
    # With one snapshot for all statements, a row or fence changed since the first one would be missed.
    row = connection.execute("SELECT current_setting('transaction_isolation')").fetchone()
    level = row[0] if row else None
    if connection.info.transaction_status is not TransactionStatus.INTRANS or level != "read committed":
        raise ProofError(
            "the proof was requested outside a READ COMMITTED transaction, where it would not hold; "
            "set default_transaction_isolation of the role that runs keyrotation to 'read committed'"
        )


def lock_tables(connection: Connection, tables: Sequence[EncryptedTable]) -> None:
    """Prevents others from changing the tables and from attaching partitions or children to any part of their trees.

    Tables that autovacuum works on come last. It yields after a second, and continues with the next table that nobody
    holds: if we came to that one next, we would wait for it at each table.
    """
    connection.execute(locks.OUTWAIT_AUTOVACUUM)
    later = []
    for table in tables:
        tree = relations.tree(connection, table)
        if locks.is_autovacuumed(connection, tree):
            later.append(table)
        else:
            _lock_table(connection, table, tree)
    for table in later:
        _lock_table(connection, table, relations.tree(connection, table))


def _lock_table(connection: Connection, table: EncryptedTable, tree: Sequence[relations.Relation]) -> None:
    root, parents = relations.root(tree, table), [each for each in tree if not (each.partition and each.kind == "r")]
    before = {relation.oid for relation in tree}
    try:
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(root.identifier))
        for parent in parents:
            if parent.is_heap or parent.holds_no_rows:
                lock = sql.SQL("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE").format(parent.identifier)
                connection.execute(lock)
    except psycopg.errors.LockNotAvailable:
        raise BlockedError(
            f"table {table.name} is being changed or vacuumed by another session; wait until that ends, "
            "then run this step again"
        ) from None
    # From here on the tree stays as it is; what was attached while we waited may not be locked.
    if {relation.oid for relation in relations.tree(connection, table)} != before:
        raise BlockedError(f"a partition of table {table.name} was added or removed just now; run this step again")


def _require_fences(
    connection: Connection, tables: Sequence[EncryptedTable], versions: Sequence[KeyVersion], xid: int
) -> None:
    for table, fenced in all_fences(connection, tables).items():
        evidence, refused = evidence_of(connection, table), relations.or_raise(fenced)
        missing = [str(version) for version in versions if version not in refused]
        if missing:
            raise FenceError(
                f"table {table.name} is not fenced against {', '.join(missing)} on {', '.join(table.columns)}: "
                f"{evidence.refusal.what(connection)} is missing, altered or not validated; find out who changed "
                "it"
            )
        _require_older(connection, evidence, xid)


def _require_older(connection: Connection, evidence: Evidence, xid: int) -> None:
    """Refuses a fence in the tree that was made since the moment, unless its partition or child was, too.

    Only a fence that is older proves that no old value was written and replaced since.
    """
    table, following = evidence.table, snapshot_horizon.next_xid(connection)
    tree = relations.tree(connection, table)
    root = relations.root(tree, table)
    oids = [relation.oid for relation in tree]
    made, created = (
        dict(cast("list[tuple[int, list[int]]]", connection.execute(query, (oids,)).fetchall()))
        for query in (evidence.refusal.MADE, _RELATION_XMINS)
    )

    def is_since(short: object) -> bool:
        full = snapshot_horizon.widen(short, following)
        # An id beyond the next one is so old that the 32-bit id has wrapped.
        return full is None or xid <= full < following

    for relation in tree:
        since = any(map(is_since, made[relation.oid]))
        if since and (relation == root or not all(map(is_since, created[relation.oid]))):
            place = f"table {table.name}" if relation == root else f"{relation.label}, declared through {table.name},"
            raise evidence.remade(place)


def _require_empty_quarantine(connection: Connection, tables: Sequence[EncryptedTable]) -> None:
    entries = quarantine.load(connection, tables)
    for entry in entries:
        number = sum((each.table, each.column) == (entry.table, entry.column) for each in entries)
        raise ProofError(
            f"table {entry.table}, column {entry.column}: {counted(number, 'value')} in quarantine "
            f"({entry.reason}); fix or remove them (`keyrotation inventory` lists them), then run `keyrotation "
            "rotate` again"
        )
