"""Reasons to pause now: the allowed hours, a standby that lags, an old snapshot because of which tables grow."""

from typing import Any, LiteralString

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.retirement.locks import age
from keyrotation_pipeline.adapters.postgres.retirement.replicas import STANDBY_NAME
from keyrotation_pipeline.adapters.postgres.server.connection import Connection

# What the application feels: a standby that is slow to write or flush keeps WAL here, and one that is named in
# synchronous_standby_names keeps commits waiting, under remote_apply for its replay too. Replay alone may be late on
# purpose (recovery_min_apply_delay), and would be so for ever; one that is declared delayed may be late with all of it.
# Hidden from roles without pg_read_all_stats.
_LAG = f"""
SELECT name, extract(epoch FROM lag)::float8
FROM (
    SELECT {STANDBY_NAME} AS name,
           greatest(r.write_lag, r.flush_lag, CASE WHEN r.sync_state <> 'async' THEN r.replay_lag END) AS lag
    FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
    WHERE r.state = 'streaming'
) AS standby
WHERE lag > make_interval(secs => %s) AND name <> ALL (%s::text[]) ORDER BY lag DESC LIMIT 1
"""  # noqa: S608  text of our own

# Compared with its size when the rotation began to rewrite it.
_GROWTH = """
SELECT pg_relation_size(%s::oid::regclass) / current_setting('block_size')::int > max(end_page) * %s
FROM keyrotation.shard_walks WHERE request = %s AND relation = %s
"""

# The oldest snapshot: VACUUM cannot remove what was replaced after it was taken.
_OLDEST_SNAPSHOT = """
SELECT format('session %%s (%%s)', pid, coalesce(nullif(application_name, ''), 'unnamed')) AS holder,
       extract(epoch FROM clock_timestamp() - xact_start)::bigint AS seconds
FROM pg_stat_activity
WHERE backend_xmin IS NOT NULL AND datname = current_database() AND pid <> pg_backend_pid()
  AND xact_start < clock_timestamp() - make_interval(secs => %(patience)s) AND backend_type = 'client backend'
UNION ALL
SELECT format('prepared transaction %%L', gid), extract(epoch FROM clock_timestamp() - prepared)::bigint
FROM pg_prepared_xacts
WHERE database = current_database() AND prepared < clock_timestamp() - make_interval(secs => %(patience)s)
ORDER BY seconds DESC LIMIT 1
"""

# A shorter transaction is no reason to pause: the next vacuum comes soon enough.
SNAPSHOT_PATIENCE_SECONDS = 10


def reason_to_pause(connection: Connection, request: str, relation: Relation, limits: Limits) -> str:
    """One phrase that names who or what we wait for; empty if there is no reason to pause."""
    if limits.hours is not None and not limits.hours.include(SystemClock().now()):
        return f"outside of the allowed hours {limits.hours}"
    patience = (limits.max_replica_lag_seconds, list(limits.delayed_standbys))
    if limits.max_replica_lag_seconds > 0 and (late := _first(connection, _LAG, patience)):
        return f"standby {late[0]} is {late[1]:.0f} s late, more than {limits.max_replica_lag_seconds:g} s"
    if limits.growth > 0 and _first(connection, _GROWTH, (relation.oid, limits.growth, request, relation.label)) == (
        True,
    ):
        return _old_snapshot(connection, relation)
    return ""


def _old_snapshot(connection: Connection, relation: Relation) -> str:
    oldest = _first(connection, _OLDEST_SNAPSHOT, {"patience": SNAPSHOT_PATIENCE_SECONDS})
    if oldest is None:
        return ""
    return (
        f"{relation.label} grows, since {oldest[0]}, {age(oldest[1])} old, may still see its replaced rows; "
        "wait until that ends, or end it"
    )


def _first(connection: Connection, query: LiteralString, parameters: Any) -> Any:  # noqa: ANN401  any row
    return connection.execute(query, parameters).fetchone()
