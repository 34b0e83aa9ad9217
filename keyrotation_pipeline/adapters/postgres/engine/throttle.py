"""Finds reasons to pause now: the allowed hours, a lagging standby, an old snapshot, slow commits."""

from collections import deque
from statistics import median
from time import perf_counter
from typing import Any, LiteralString

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.retirement.locks import age
from keyrotation_pipeline.adapters.postgres.retirement.replicas import STANDBY_NAME
from keyrotation_pipeline.adapters.postgres.server.connection import Connection

# What the application notices: a standby that is slow to write or flush retains WAL here, and one that is named in
# synchronous_standby_names delays commits, under remote_apply for its replay too. Replay alone may lag on purpose
# (recovery_min_apply_delay), and would do so for ever; one that is declared delayed may lag in all of it. Hidden from
# roles without pg_read_all_stats.
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

# Compared with the size when the rotation started to rewrite it.
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
    """Returns one phrase that names what we wait for; empty if there is no reason to pause."""
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


# Locking a row of our own, the event that opened the rotation, is the smallest change whose commit waits for the disk
# and for synchronous standbys, as the application's do. Nobody waits for it, and logical replication does not carry it.
_BEGIN = "SET LOCAL synchronous_commit TO DEFAULT"
_CHANGE = """
SELECT FROM keyrotation.audit_events WHERE request = %s AND event = 'request_opened' FOR KEY SHARE SKIP LOCKED
"""

# How many samples decide: one slow commit does not count.
LOOKS = 3
# Slow is so many times slower than the best; a disk or a distant standby may be slow by nature.
TIMES_SLOWER = 4.0
LARGEST_SLOWDOWN = 16.0


class CommitTimes:
    """Times a commit now and then, and decides how much longer to rest.

    Args:
        slow_seconds: a faster commit is never slow; 0: never measure.

    Attributes:
        slowdown: 1 to 16; doubles with each sample that finds commits slow, and halves with each that does not.
        reason: one phrase while it is above 1; else empty.
    """

    def __init__(self, slow_seconds: float) -> None:
        self._slow_seconds = slow_seconds
        self._recent: deque[float] = deque(maxlen=LOOKS)
        self._best = float("inf")
        self.slowdown = 1.0
        self.reason = ""

    def measure(self, connection: Connection, request: str) -> None:
        """Times one commit.

        Args:
            connection: in autocommit mode, without a transaction.
        """
        if self._slow_seconds <= 0:
            return
        begun = perf_counter()
        with connection.transaction():
            connection.execute(_BEGIN)
            connection.execute(_CHANGE, (request,))
        self.learn(perf_counter() - begun)

    def learn(self, seconds: float) -> None:
        """Takes one commit's duration into account."""
        self._recent.append(seconds)
        if len(self._recent) < LOOKS:
            return
        usual = median(self._recent)
        self._best = min(self._best, usual)
        slow = usual > max(self._slow_seconds, TIMES_SLOWER * self._best)
        self.slowdown = min(LARGEST_SLOWDOWN, self.slowdown * 2) if slow else max(1.0, self.slowdown / 2)
        self.reason = (
            f"a small commit takes {usual * 1000:,.0f} ms, at its best {self._best * 1000:,.0f} ms; "
            f"resting {self.slowdown:g} times as long"
            if self.slowdown > 1
            else ""
        )
