"""The engine's limits: duty cycle, workers, an operator's pace; and reasons to pause now.

It pauses outside of the allowed hours, for a lagging standby, an old snapshot and slow commits.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from statistics import median
from time import perf_counter
from typing import Any, LiteralString, TypeVar, cast

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.retirement.locks import age
from keyrotation_pipeline.adapters.postgres.retirement.replicas import STANDBY_NAME
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.audit.event_signatures import VouchedEvents
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.formats.marking import LONGEST_JUDGED_BYTES
from keyrotation_pipeline.model.audit import AuditEvent, Fact
from keyrotation_pipeline.model.progress import DEFAULT_DUTY_CYCLE, AllowedHours, PaceSet
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.ports.keys import KeyStore

_NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the engine's speed, memory and waits. The defaults are those of routine mode.

    Args:
        workers: processes that share a shard.
        threads_per_worker: threads of a full decrypt per worker.
        max_rows_per_second: rows per second for one shard; 0: no cap.
        max_replica_lag_seconds: pause while a standby lags more than this; 0: standbys are not checked.
        delayed_standbys: names of standbys that may lag.
        hours: when rows may be rewritten; None: always.
        duty_cycle: share of the time in which one worker keeps the database busy; it rests for the remainder.
        statement_seconds: how long one write should take, which determines the rows per batch. Nobody waits longer than
            this for the rows of a batch.
        max_pages: how many pages' rows are in memory at once.
        batch_bytes: stored bytes to read at once; a larger row is read alone.
        largest_row_bytes: a row with more in its encrypted columns stops the rotation.
        lock_retry_seconds: how long to retry a table that others have locked (`VACUUM FULL`, `ALTER TABLE`).
        straggler_attempts: how often to retry a page range because of rows that others keep writing.
        vacuum_pages: smaller relations are not vacuumed; also the least number of pages between two vacuums.
        vacuum_delay_ms: `vacuum_cost_delay` of our own vacuums.
        growth: pause while an old snapshot prevents VACUUM from removing rows and the table has grown by this factor;
            0: growth is not checked.
        pages_per_worker: least pages for each worker process, and for each thread of a full decrypt.
        sharing: how many processes share the cap on rows.
        slow_commit_seconds: rest longer while a small commit takes more than this, and much longer than it took before;
            0: commits are not checked.
        rests: whether the duty cycle applies.
        writes_at_once: whether to write rows without locking all of a batch first, and to wait a moment for each row
            that others have locked.
        native_codec: whether to use it, where it was built.
        vouched: says which pauses and paces count; None: all.
        ledger: opens a connection to the database of the home, where these are; None: the tables are in it, too.
    """

    workers: int = 1
    threads_per_worker: int = 1
    max_rows_per_second: float = 0
    max_replica_lag_seconds: float = 5.0
    delayed_standbys: tuple[str, ...] = ()
    hours: AllowedHours | None = None
    duty_cycle: float = DEFAULT_DUTY_CYCLE
    statement_seconds: float = 0.0002
    max_pages: int = 512
    batch_bytes: int = 4 * 1024 * 1024
    largest_row_bytes: int = LONGEST_JUDGED_BYTES
    lock_retry_seconds: float = 60.0
    straggler_attempts: int = 20
    vacuum_pages: int = 256
    vacuum_delay_ms: float = 2.0
    growth: float = 1.25
    pages_per_worker: int = 500
    sharing: int = 1
    slow_commit_seconds: float = 0.025
    rests: bool = True
    writes_at_once: bool = False
    native_codec: bool = True
    vouched: VouchedEvents | None = None
    ledger: Callable[[], Connection] | None = field(default=None, repr=False)  # it may hold a password

    def in_an_emergency(self) -> "Limits":
        """Returns these limits with all cores, and without rests, caps and allowed hours.

        Each worker also keeps about one core of the server busy, so more workers than half the cores would only wait. A
        thread that decrypts waits for the server instead, so it keeps only one core busy.
        """
        return replace(
            self,
            workers=max(self.workers, (os.cpu_count() or 2) // 2),
            threads_per_worker=2,
            max_rows_per_second=0,
            hours=None,
            duty_cycle=1.0,
            statement_seconds=max(self.statement_seconds, 0.001),
            vacuum_delay_ms=0.0,
            growth=0.0,
            slow_commit_seconds=0.0,
            writes_at_once=True,
        )

    def of_one_worker(self) -> "Limits":
        """Returns the limits of one worker. The parent process vacuums for all."""
        return replace(
            self,
            workers=1,
            max_rows_per_second=self.max_rows_per_second / self.workers,
            vacuum_pages=_NEVER,
            sharing=self.workers,
        )

    def at_pace(self, pace: PaceSet) -> "Limits":
        """Returns these limits with the values that an operator has set."""
        rows, duty = pace.rows_per_second, pace.duty_cycle
        return replace(
            self,
            max_rows_per_second=self.max_rows_per_second if rows is None else rows / self.sharing,
            duty_cycle=duty if duty is not None and self.rests else self.duty_cycle,
            hours=self.hours if pace.hours is None else pace.allowed_hours(),
        )


@contextmanager
def opened_ledger(limits: Limits, connection: Connection) -> Iterator[Connection]:
    """Yields a connection to where requests are paused and paced: this one, unless the tables are elsewhere."""
    if limits.ledger is None:
        yield connection
        return
    with closing(limits.ledger()) as ledger:
        yield ledger


# Whoever owns the database can append more than that, and so hide a pause from the engine, but not from the next step.
_NEWEST = own("""
SELECT seq, body, previous_hash, hash, event, request, signature
FROM keyrotation.audit_events WHERE event = %s AND request = %s ORDER BY seq DESC LIMIT 100
""")

Said = TypeVar("Said", bound=Fact)


def newest_of(connection: Connection, request: str, kind: type[Said], vouched: VouchedEvents | None) -> Said | None:
    """Returns what the newest event of a kind that counts says of a request; None: there is none, or it is malformed.

    The chain is not verified; `audit verify` does that.
    """
    with suppress(KeyRotationError, ValueError, KeyError, TypeError):
        for row in connection.execute(_NEWEST, (str(kind.kind), request)):
            event = AuditEvent(*cast("tuple[int, str, str, str, str, str | None, str | None]", row))
            if vouched is None or vouched.counts(event):
                return read(kind, json.loads(event.body)["facts"])
    return None


def pace_override(connection: Connection, request: str, limits: Limits) -> Limits:
    """Returns the limits at the pace set last; unchanged if none was set or it is no pace."""
    pace = newest_of(connection, request, PaceSet, limits.vouched)
    with suppress(KeyRotationError):
        return limits if pace is None else limits.at_pace(pace.checked())
    return limits


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How to start worker processes.

    Args:
        keys: the key store, from which each worker reads the key ring itself.
        environment: environment of the workers, without keys. None: ours.
    """

    keys: KeyStore
    environment: Mapping[str, str] | None = field(default=None, repr=False)


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
_GROWTH = own("""
SELECT pg_relation_size(%s::oid::regclass) / current_setting('block_size')::int > max(end_page) * %s
FROM keyrotation.shard_walks WHERE request = %s AND relation = %s
""")

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


def _first(connection: Connection, query: LiteralString | own, parameters: Any) -> Any:  # noqa: ANN401  any row
    return connection.execute(query, parameters).fetchone()


# Locking a row of our own, the event that opened the rotation, is the smallest change whose commit waits for the disk
# and for synchronous standbys, as the application's do. Nobody waits for it, and logical replication does not carry it.
_BEGIN = "SET LOCAL synchronous_commit TO DEFAULT"
_CHANGE = own("""
SELECT FROM keyrotation.audit_events WHERE request = %s AND event = 'request_opened' FOR KEY SHARE SKIP LOCKED
""")

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
