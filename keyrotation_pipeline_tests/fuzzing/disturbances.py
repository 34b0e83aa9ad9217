"""What happens around a rotation, again and again until it is over."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import psycopg

from keyrotation_pipeline_tests.fuzzing.application import Application
from keyrotation_pipeline_tests.fuzzing.tables import PARTS, Kind, Table
from keyrotation_pipeline_tests.servers import Server

# Short waits, so that replication goes on soon after a restart.
SETTINGS = ("wal_retrieve_retry_interval=200ms", "max_worker_processes=20", "max_logical_replication_workers=10")
MOST_PARTS = 1000
OTHER = "visits"  # a table next to those with values


@dataclass
class Disturbances:
    """One thread that does one of the chosen things at a time.

    Args:
        url: of the database, as its superuser.
        names: those that are chosen for the round.
        subscriber: another server, which is restarted, too.
        application: adds partitions with rows.
        slower: how much longer each pause is than the one before.
        done: how often each was.
    """

    server: Server
    url: str
    tables: tuple[Table, ...]
    names: tuple[str, ...]
    chance: Random
    subscriber: Server | None = None
    application: Application | None = None
    slower: float = 1.06
    done: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def work(self, stop: threading.Event) -> None:
        """Disturbs, ever less often, since a walk in which everything is disturbed at each moment does not end."""
        pause_seconds = 0.05
        while not stop.wait(self.chance.uniform(0, 2 * pause_seconds)):
            pause_seconds *= self.slower
            name = self.chance.choice(self.names)
            # Those with a limit come at any time of the walk.
            if name in LIMITS and (self.done[name] >= LIMITS[name] or self.chance.random() < 0.7):
                continue
            try:
                DISTURBANCES[name](self)
            except psycopg.Error as error:
                self.failed[f"{name}: {type(error).__name__}"] += 1
            except Exception as error:
                self.wrong.append(f"{name}: {type(error).__name__}: {error}")
                raise
            else:
                self.done[name] += 1

    @property
    def table(self) -> Table:
        return self.chance.choice(self.tables)

    def execute(self, *statements: str, transaction: bool = False) -> None:
        with psycopg.connect(self.url, autocommit=not transaction) as connection:
            connection.execute("SET lock_timeout = '3s'")
            for statement in statements:
                connection.execute(statement.encode())


def alter_type(around: Disturbances) -> None:
    """Rewrites a table by the type of a column that nobody encrypts."""
    name = around.table.name
    for _ in range(around.chance.randint(1, 4)):
        kind = around.chance.choice(("int", "bigint", "numeric"))
        around.execute(f"ALTER TABLE {name} ALTER COLUMN number TYPE {kind}")


def add_column(around: Disturbances) -> None:
    """Rewrites it by a column with a volatile default, and drops that."""
    name = around.table.name
    around.execute(
        f"ALTER TABLE {name} ADD COLUMN added timestamptz DEFAULT clock_timestamp()",
        f"ALTER TABLE {name} DROP COLUMN added",
        transaction=True,
    )


def vacuum_full(around: Disturbances) -> None:
    around.execute(f"VACUUM FULL {around.table.name}")


def cluster(around: Disturbances) -> None:
    """Sorts a relation by its primary key."""
    table = around.table
    name = around.chance.choice(table.children or (table.name,))
    around.execute(f"CLUSTER {name} USING {name}_pkey")


def vacuum(around: Disturbances) -> None:
    around.execute(f"VACUUM (FREEZE, ANALYZE) {around.table.name}")


def reindex(around: Disturbances) -> None:
    around.execute(f"REINDEX TABLE CONCURRENTLY {around.table.name}")


def set_tablespace(around: Disturbances) -> None:
    """Moves a relation to another tablespace, and back."""
    table = around.table
    name = around.chance.choice(table.children or (table.name,))
    place = around.chance.choice(("further", "pg_default"))
    around.execute(f"ALTER TABLE {name} SET TABLESPACE {place}")


def truncate_other(around: Disturbances) -> None:
    around.execute(
        f"TRUNCATE {OTHER}",
        f"INSERT INTO {OTHER} SELECT i, 'visit ' || i FROM generate_series(1, 50) i",
        transaction=True,
    )


def detach(around: Disturbances) -> None:
    """Detaches a partition and attaches it again, in one transaction: nobody sees it gone."""
    partitioned = [table for table in around.tables if table.kind is Kind.PARTITIONED]
    if not partitioned:
        return
    table = around.chance.choice(partitioned)
    part = around.chance.randrange(len(table.children))
    name = table.children[part]
    around.execute(
        f"ALTER TABLE {table.name} DETACH PARTITION {name}",
        f"ALTER TABLE {table.name} ATTACH PARTITION {name} FOR VALUES IN ({part})",
        transaction=True,
    )


def attach(around: Disturbances) -> None:
    """Adds a partition, or a child, that has rows under the keys of this moment already."""
    trees = [table for table in around.tables if table.kind is not Kind.PLAIN]
    if not trees or around.application is None or around.subscriber is not None:  # who subscribes lacks it
        return
    table, part = around.chance.choice(trees), around.chance.randrange(PARTS, MOST_PARTS)
    with psycopg.connect(around.url) as connection:
        connection.execute("SET lock_timeout = '3s'")
        around.application.attach(connection, table, part, around.chance)


def inherit(around: Disturbances) -> None:
    """Takes a child out of its parent, and back, in one transaction."""
    inherited = [table for table in around.tables if table.kind is Kind.INHERITED]
    if not inherited:
        return
    table = around.chance.choice(inherited)
    name = around.chance.choice(table.children)
    around.execute(
        f"ALTER TABLE {name} NO INHERIT {table.name}", f"ALTER TABLE {name} INHERIT {table.name}", transaction=True
    )


def old_snapshot(around: Disturbances) -> None:
    """Holds a snapshot for a while."""
    with psycopg.connect(around.url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute(f"SELECT count(*) FROM {around.table.name}".encode())
        time.sleep(around.chance.uniform(0.1, 1.0))


def end_sessions(around: Disturbances) -> None:
    """Ends some sessions of this database, the pipeline's among them."""
    with psycopg.connect(around.url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND random() < 0.3"
        )


def restart(around: Disturbances, mode: str) -> None:
    """Restarts the server, or that of the subscriber."""
    server = around.chance.choice([each for each in (around.server, around.server, around.subscriber) if each])
    server.stop(mode)
    server.start(*SETTINGS)
    time.sleep(around.chance.uniform(0.5, 2.0))


DISTURBANCES: dict[str, Callable[[Disturbances], None]] = {
    "ALTER COLUMN TYPE": alter_type,
    "ADD COLUMN": add_column,
    "VACUUM FULL": vacuum_full,
    "CLUSTER": cluster,
    "VACUUM FREEZE": vacuum,
    "REINDEX": reindex,
    "SET TABLESPACE": set_tablespace,
    "TRUNCATE": truncate_other,
    "DETACH": detach,
    "NO INHERIT": inherit,
    "ATTACH": attach,
    "old snapshot": old_snapshot,
    "sessions ended": end_sessions,
    "immediate restart": lambda around: restart(around, "immediate"),
    "fast restart": lambda around: restart(around, "fast"),
}
REWRITING = {"ALTER COLUMN TYPE", "ADD COLUMN", "VACUUM FULL", "CLUSTER"}
# How often in one walk.
LIMITS = {"ATTACH": 3, "immediate restart": 3, "fast restart": 3, "sessions ended": 6, "old snapshot": 8}
