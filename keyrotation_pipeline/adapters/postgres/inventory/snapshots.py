"""Takes snapshots that show what is in a relation, whatever rewrites it meanwhile.

TRUNCATE, and ALTER TABLE where it rewrites a relation, hide every row from snapshots that are older: they see an empty
table. So a relation is locked before the snapshot is taken; or its file is compared after it was locked, where the
snapshot had to come first. A statement of a READ COMMITTED transaction needs neither, unless it is a COPY: it locks
what it reads, and only then takes its snapshot.

Source: PostgreSQL, "Concurrency Control", "Caveats".
"""

from collections.abc import Sequence

from psycopg import errors, sql

from keyrotation_pipeline.adapters.postgres.inventory import relations
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.model.tables import EncryptedTable

_LOCK = sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE {}")
_ATTEMPTS = 5
BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# The catalogue of the snapshot has the file and the name that it shows, and the functions return the present ones. What
# is empty now is as empty as the snapshot shows it.
_REWRITTEN = """
SELECT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = ANY (%s::bigint[]::oid[])
      AND (to_regclass(format('%%I.%%I', n.nspname, c.relname)) IS DISTINCT FROM c.oid::regclass
           OR c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid) AND pg_relation_size(c.oid) > 0))
"""


def begin(connections: Sequence[Connection], relation: Relation) -> None:
    """Opens a transaction on each connection, of one snapshot that shows every row of a relation until these end.

    LOCK takes no snapshot; the statement after it does. Only the first connection waits for its lock, and holds nothing
    meanwhile. Where somebody's ALTER TABLE queues behind that, the others would wait for it, and it for the first, and
    the application behind them all; so then every lock is given back, and the first one waits again.

    Raises:
        BlockedError: the relation has another name by now.
        LockNotAvailable: it is not locked within the session's `lock_timeout`.
    """
    first, *others = connections
    for attempt in range(_ATTEMPTS):
        first.execute(BEGIN)
        lock(first, relation)
        try:
            for each in others:
                each.execute(BEGIN)
                each.execute(_LOCK.format(relation.identifier, sql.SQL("NOWAIT")))
        except errors.LockNotAvailable:
            if attempt == _ATTEMPTS - 1:
                raise
            for each in connections:
                each.execute("ROLLBACK")
        else:
            break
    ((snapshot,),) = first.execute("SELECT pg_export_snapshot()").fetchall()
    for each in others:
        each.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())


def lock(connection: Connection, relation: Relation) -> None:
    """Keeps a relation from being rewritten, renamed and dropped until the transaction ends; raises as `begin`."""
    connection.execute(_LOCK.format(relation.identifier, sql.SQL("")))
    name = relation.identifier.as_string(connection)
    if connection.execute("SELECT %s::regclass::oid::bigint", (name,)).fetchone() != (relation.oid,):
        raise BlockedError(f"{relation.label} was replaced by another table meanwhile; run this again")


def require_same_heaps(connection: Connection, table: EncryptedTable, read: Sequence[Relation]) -> None:
    """Refuses what was read of a table if another relation of its tree holds rows by now, or one is gone.

    Raises:
        BlockedError: names the table.
        PreflightError: as `relations.heaps`.
    """
    if _names(relations.heaps(connection, table)) != _names(read):
        raise BlockedError(f"a partition of table {table.name} was added or removed meanwhile; run this again")


def _names(heaps: Sequence[Relation]) -> set[tuple[int, str]]:
    return {(each.oid, each.label) for each in heaps}


def rewritten(connection: Connection, oids: Sequence[int]) -> bool:
    """Returns whether the transaction's snapshot does not show the rows of a table, or under another name.

    Args:
        oids: of tables that the transaction has locked since.
    """
    return connection.execute(_REWRITTEN, (list(oids),)).fetchone() == (True,)
