"""Locks the application's tables without stalling its users, and names who holds a lock.

Every session that comes after a waiting ACCESS EXCLUSIVE queues behind it. So the lock is first tried without waiting.
Only if that never succeeds, because somebody holds the table at every moment, we wait for it a few times, a tenth of a
second each.
"""

from collections.abc import Callable, Sequence
from functools import partial

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.inventory import relations
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, PreflightError
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.clock import attempts

PATIENCE_SECONDS = 30.0
# The light lock is released after each spell: a CREATE INDEX may queue behind it, and writers behind that.
SPELL_SECONDS = 2.0
PAUSE_SECONDS = 0.02
# How often we wait in the queue, and the pause before each time. On a table with partitions each lock is waited for
# separately, so the statement as a whole has a limit too: the application waits no longer than that.
QUEUED_PAUSES_SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0)
_WAIT_IN_QUEUE = "SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '120ms'"
_WAIT_NO_MORE = "SET LOCAL statement_timeout = 0"

# A wait longer than deadlock_timeout makes an autovacuum worker yield.
OUTWAIT_AUTOVACUUM = """
SELECT set_config('lock_timeout', (1000 * extract(epoch FROM current_setting('deadlock_timeout')::interval))::int + 500
                                  || 'ms', true)
"""

_AUTOVACUUM_AT_WORK = """
SELECT EXISTS (
    SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY(%s::bigint[]::oid[])
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND a.backend_type = 'autovacuum worker')
"""

_HOLDERS = """
SELECT DISTINCT l.pid, coalesce(nullif(a.application_name, ''), a.backend_type, 'unnamed'),
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::bigint, p.gid
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
-- A prepared transaction has no process; the lock on its own transaction id tells which it is.
LEFT JOIN pg_locks own ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
    AND own.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_prepared_xacts p ON p.transaction = own.transactionid
WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY(%s::bigint[]::oid[])
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.pid IS DISTINCT FROM pg_backend_pid()
ORDER BY 3 DESC NULLS LAST
"""

# Behind these a short wait is useless: it would stall the application and time out. A transaction that is hidden from
# us counts as a long one.
_LONG_HOLDER = """
SELECT EXISTS (
    SELECT FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY(%s::bigint[]::oid[])
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.pid IS DISTINCT FROM pg_backend_pid()
      AND (a.xact_start IS NULL OR a.backend_type = 'autovacuum worker'
           OR a.xact_start < clock_timestamp() - interval '1 second'))
"""


def change(
    connection: Connection,
    table: EncryptedTable,
    root: relations.Relation,
    statements: Sequence[sql.Composed],
    *,
    wait: bool = True,
) -> bool:
    """Runs statements on a table and its partitions in one transaction under ACCESS EXCLUSIVE.

    First we take SHARE UPDATE EXCLUSIVE, which no reader or writer notices and to which autovacuum yields. Under it the
    stronger lock is tried repeatedly, without waiting, for `PATIENCE_SECONDS`. After that we wait for it in the queue,
    a few times and briefly, but never behind a long transaction.

    Args:
        root: the table itself.
        wait: False: try the stronger lock once, and wait for nothing.

    Returns:
        Whether they were run; False only without `wait`.

    Raises:
        BlockedError: the lock could not be taken; names a holder.
        PreflightError: the role may not change the table.
    """
    if not wait:
        return _attempt(connection, table, statements, partial(_take, connection, root))
    for waited in attempts(SystemClock(), pause_seconds=PAUSE_SECONDS, patience_seconds=PATIENCE_SECONDS):
        spell_seconds = min(PATIENCE_SECONDS - waited, SPELL_SECONDS)
        if _attempt(connection, table, statements, partial(_seize, connection, root, spell_seconds)):
            return True
    for pause_seconds in QUEUED_PAUSES_SECONDS:
        SystemClock().sleep(pause_seconds)
        if _attempt(connection, table, statements, partial(_queue, connection, table, root)):
            return True
    raise _blocked(connection, table)


def is_autovacuumed(connection: Connection, tree: Sequence[relations.Relation]) -> bool:
    """Returns whether autovacuum works on one of these relations, as far as this role may see."""
    oids = [relation.oid for relation in tree]
    return connection.execute(_AUTOVACUUM_AT_WORK, (oids,)).fetchone() == (True,)


def lock_holders(connection: Connection, table: EncryptedTable) -> tuple[str, ...]:
    """Returns who holds a lock on the table or a relation under it, the oldest transaction first; one phrase each."""
    oids = [relation.oid for relation in relations.tree(connection, table)]
    rows = connection.execute(_HOLDERS, (oids,)).fetchall()
    return tuple(_phrase(*row) for row in rows)


def age(seconds: object) -> str:
    """Formats a duration for people: ``35 s``, ``12 min``, ``3 h``."""
    whole = int(str(seconds or 0))
    for unit, size in (("h", 3600), ("min", 60)):
        if whole >= 2 * size:
            return f"{whole // size} {unit}"
    return f"{max(whole, 0)} s"


def _attempt(
    connection: Connection, table: EncryptedTable, statements: Sequence[sql.Composed], lock: Callable[[], bool]
) -> bool:
    try:
        with connection.transaction():
            if not lock():
                return False
            for statement in statements:
                connection.execute(statement)
    except psycopg.errors.LockNotAvailable:
        return False
    except psycopg.errors.InsufficientPrivilege:
        raise PreflightError(
            f"this role may not change table {table.name}; run keyrotation as the owner of the table"
        ) from None
    return True


def _take_light(connection: Connection, root: relations.Relation) -> None:
    connection.execute(OUTWAIT_AUTOVACUUM)
    connection.execute(sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(root.identifier))


def _take(connection: Connection, root: relations.Relation) -> bool:
    connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE NOWAIT").format(root.identifier))
    return True


def _seize(connection: Connection, root: relations.Relation, spell_seconds: float) -> bool:
    _take_light(connection, root)
    for _ in attempts(SystemClock(), pause_seconds=PAUSE_SECONDS, patience_seconds=spell_seconds):
        try:
            # A savepoint: releases the locks on a tree of partitions if one of them is not available.
            with connection.transaction():
                return _take(connection, root)
        except psycopg.errors.LockNotAvailable:
            continue
    return False


def _queue(connection: Connection, table: EncryptedTable, root: relations.Relation) -> bool:
    _take_light(connection, root)
    oids = [relation.oid for relation in relations.tree(connection, table)]
    if connection.execute(_LONG_HOLDER, (oids,)).fetchone() != (False,):
        return False
    try:
        with connection.transaction():
            connection.execute(_WAIT_IN_QUEUE)
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(root.identifier))
            connection.execute(_WAIT_NO_MORE)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
        return False
    return True


def _blocked(connection: Connection, table: EncryptedTable) -> BlockedError:
    who = "; ".join(lock_holders(connection, table)) or "a session that has just released it"
    return BlockedError(
        f"table {table.name} cannot be locked, since it is in use by {who}; wait until that ends, or end it, then "
        "run this step again"
    )


def _phrase(pid: object, application: object, seconds: object, gid: object) -> str:
    if gid is not None:
        return f"prepared transaction {gid!r} ({age(seconds)} old)"
    return f"session {pid} ({application}, in a transaction for {age(seconds)})"
