"""Finds who could still show, or bring back, a value that was replaced before a given moment: the snapshot horizon.

Zero old rows on the primary is not enough to withdraw a key: an open snapshot, a prepared transaction, a standby or a
subscriber may still need it. The moment is given twice, as a transaction id for everything based on snapshots, and as a
WAL position for everything based on replay.

Not visible from here: sessions of a standby that runs without hot_standby_feedback and is not declared, cascaded
standbys that are not declared, holdable cursors, and copies that left the database (base backups, WAL archives, which
is why a key is archived, not deleted).
"""

from collections.abc import Iterator

from keyrotation_pipeline.adapters.postgres.retirement import locks, replicas
from keyrotation_pipeline.adapters.postgres.retirement.locks import age
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.tables import EncryptedTable

# Sessions of other databases cannot read our rows. VACUUM's snapshots show rows to nobody; a parallel worker has its
# leader's. A standby with feedback but without a slot reports its horizon as a walsender's backend_xmin.
_SESSIONS = """
SELECT pid, coalesce(nullif(application_name, ''), backend_type, 'unnamed'),
       extract(epoch FROM clock_timestamp() - coalesce(xact_start, backend_start))::bigint,
       backend_xmin::text::bigint, backend_xid::text::bigint, backend_type = 'walsender'
FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND backend_type NOT IN ('autovacuum worker', 'parallel worker')
  AND (datname = current_database() OR backend_type = 'walsender' AND datname IS NULL)
  AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
ORDER BY xact_start
"""

# What a role without pg_read_all_stats sees of another role's session: its owner, but not its activity.
_HIDDEN = """
SELECT count(*), string_agg(DISTINCT usename::text, ', ') FROM pg_stat_activity
WHERE datname = current_database() AND usesysid IS NOT NULL AND backend_type IS NULL
"""

_PREPARED = """
SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::bigint, transaction::text::bigint
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
"""

# What a physical slot has received says nothing about what its standby has replayed: without a connection that is
# unknown. A slot that has lost its WAL no longer delivers, and its receiver shows what it has.
_SLOTS = """
SELECT slot_name::text, slot_type, active, xmin::text::bigint,
       CASE slot_type WHEN 'logical' THEN coalesce(confirmed_flush_lsn < %(lsn)s::pg_lsn, true)
            ELSE NOT active END
FROM pg_replication_slots
WHERE (slot_type = 'physical' OR database = current_database()) AND NOT temporary
ORDER BY slot_name
"""

# Logical ones are covered by their slots. Base backups and WAL receivers report no replay: they show no rows.
_STANDBYS = """
SELECT r.pid, r.application_name, r.state IS NULL
FROM pg_stat_replication r LEFT JOIN pg_stat_activity a ON a.pid = r.pid
WHERE a.datname IS NULL AND (r.state IS NULL OR r.state <> 'backup' AND CASE
    WHEN r.replay_lsn IS NULL THEN r.write_lsn IS NULL ELSE r.replay_lsn < %(lsn)s::pg_lsn END)
"""


def barrier(connection: Connection) -> str:
    """Returns a WAL position, as text, behind everything committed so far; call it outside a transaction."""
    with connection.transaction():
        # Writes something to replay and confirm, or an idle standby would never reach the position.
        connection.execute("SET LOCAL synchronous_commit = local")
        connection.execute("SELECT pg_logical_emit_message(true, 'keyrotation', 'barrier')")
    row = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
    return str(row[0]) if row else "0/0"


def current_xid(connection: Connection) -> int:
    """Returns a full (64-bit) transaction id later than every committed one."""
    row = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
    return int(str(row[0])) if row else 0


def blockers(
    connection: Connection, xid: int, lsn: str, declared: replicas.Replicas = replicas.NONE_DECLARED
) -> tuple[str, ...]:
    """Returns who could still show a value replaced before `xid` / `lsn`, one sentence each that says what to do.

    Records who is connected, so that the next call misses it if it has gone. A session whose activity is hidden from
    this role counts as a blocker: it cannot be ruled out.
    """

    def sessions_of(standby: Connection) -> tuple[str, ...]:
        # They are visible there with or without hot_standby_feedback.
        return (*_old_sessions(standby, xid, next_xid(standby)), *_hidden_sessions(standby))

    replicas.write_down(connection)
    following = next_xid(connection)
    found = (
        *_old_sessions(connection, xid, following),
        *_hidden_sessions(connection),
        *_old_prepared(connection, xid, following),
        *_old_slots(connection, xid, lsn, following, declared),
        *_lagging_standbys(connection, lsn),
        *replicas.absent(connection, declared),
        *replicas.asked(connection, declared, lsn, sessions_of),
    )
    return tuple(dict.fromkeys(found))


def sessions(connection: Connection, table: EncryptedTable) -> tuple[str, ...]:
    """Returns who holds a lock on `table` now, else every other session of this database; one phrase each."""
    if found := locks.lock_holders(connection, table):
        return found
    rows = connection.execute(
        "SELECT pid, coalesce(nullif(application_name, ''), 'unnamed'), coalesce(client_addr::text, 'local')"
        " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND usesysid IS NOT NULL ORDER BY pid"
    ).fetchall()
    return tuple(f"session {pid} ({application}, {address})" for pid, application, address in rows)


def next_xid(connection: Connection) -> int:
    """Returns the full transaction id that is used to widen 32-bit ones."""
    row = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
    return int(str(row[0])) if row else 0


def widen(short: object, following: int) -> int | None:
    """Returns the full id of a 32-bit transaction id that is less than 2^31 away from `following`."""
    if short is None:
        return None
    distance = (int(str(short)) - following + 2**31) % 2**32 - 2**31
    return following + distance


def _older(short: object, xid: int, following: int) -> bool:
    full = widen(short, following)
    return full is not None and full < xid


def _old_sessions(connection: Connection, xid: int, following: int) -> Iterator[str]:
    for pid, application, seconds, xmin, own, is_walsender in connection.execute(_SESSIONS).fetchall():
        if not (_older(xmin, xid, following) or _older(own, xid, following)):
            continue
        if is_walsender:
            yield (
                f"a session on the standby of {application} (walsender {pid}) is in a transaction that may still "
                "see old values; wait until it ends, or end it there"
            )
        else:
            yield (
                f"session {pid} ({application}) is in a transaction of {age(seconds)} that may still see old "
                f"values; wait until it ends, or end it by SELECT pg_terminate_backend({pid})"
            )


def _hidden_sessions(connection: Connection) -> Iterator[str]:
    row = connection.execute(_HIDDEN).fetchone()
    if row and row[0]:
        yield (
            "an old snapshot cannot be ruled out, since this role does not see "
            f"{counted(int(str(row[0])), 'session')} of {row[1]}; "
            "GRANT pg_read_all_stats to the role that runs keyrotation"
        )


def _old_prepared(connection: Connection, xid: int, following: int) -> Iterator[str]:
    for gid, seconds, transaction in connection.execute(_PREPARED).fetchall():
        if _older(transaction, xid, following):
            yield (
                f"prepared transaction {gid!r}, {age(seconds)} old, may still bring old values; "
                "COMMIT PREPARED or ROLLBACK PREPARED it"
            )


def _old_slots(
    connection: Connection, xid: int, lsn: str, following: int, declared: replicas.Replicas
) -> Iterator[str]:
    for name, kind, active, xmin, behind in connection.execute(_SLOTS, {"lsn": lsn}).fetchall():
        if not (behind or _older(xmin, xid, following)) or declared.is_gone(f"slot {name}"):
            continue
        if active:
            yield (
                f"{kind} replication slot {name!r} (active) has not passed {lsn}, so its receiver may still hold old "
                "values; wait until it catches up"
            )
        else:
            yield (
                f"{kind} replication slot {name!r} is inactive, so its receiver may show old values; start the "
                f"receiver, or if it is gone for good drop the slot and add {declared.named(f'slot {name}')!r} to "
                "[database] gone_replicas"
            )


def _lagging_standbys(connection: Connection, lsn: str) -> Iterator[str]:
    for pid, application, hidden in connection.execute(_STANDBYS, {"lsn": lsn}).fetchall():
        if hidden:
            yield (
                f"what walsender {pid} has replayed is hidden from this role; "
                "GRANT pg_read_all_stats to the role that runs keyrotation"
            )
        else:
            yield f"standby {application!r} (walsender {pid}) has not replayed {lsn}; wait until it catches up"
