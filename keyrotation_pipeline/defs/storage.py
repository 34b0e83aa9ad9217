"""Dagster's storage: dagster-postgres on the server that DAGSTER_PG_URL names.

By itself dagster-postgres wants that variable, and a server that answers, merely to load `dagster.yaml`: even
`dg check defs` in a fresh clone would fail. Without the variable nothing is kept: what there is ends with the process.

It also opens a connection for every query, and asks for the names of all tables before every second one: with five
sensors that was the greater part of what an idle instance costs. Here a process keeps a connection or two, and what it
has once seen to be there.
"""

import os
import select
import tempfile
from collections.abc import Mapping
from functools import cache
from typing import Any

from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import create_pg_engine
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DisconnectionError

from keyrotation_pipeline.settings.loading import dagster_storage_url

# Beyond these, connections are closed after use: a process rarely needs more than one at a time.
KEPT_CONNECTIONS = 2
MOST_CONNECTIONS = 50
KEPT_SECONDS = 300


class InstanceStorage(DagsterPostgresStorage):
    """`storage.custom` of `dagster.yaml`; takes no configuration, so that no URL stands in a file or a process list."""

    def __init__(self, url: str, inst_data: ConfigurableClassData | None = None) -> None:
        known = _known(url, os.getpid())
        super().__init__(url, should_autocreate_tables=not known, inst_data=inst_data)
        self._run_storage = _RunStorage(url, should_autocreate_tables=False, inst_data=inst_data)
        self._schedule_storage = _ScheduleStorage(url, should_autocreate_tables=False, inst_data=inst_data)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = _engine(url, os.getpid())  # noqa: SLF001  as their `optimize_for_webserver` does
        known.add("tables")

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """No configuration."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Any:  # noqa: ANN401, ARG003
        """The storage that the environment names, else one that is forgotten; Dagster takes any."""
        if (url := dagster_storage_url()) is not None:
            return cls(url, inst_data=inst_data)
        return DagsterSqliteStorage(_forgotten().name, inst_data)


class _RunStorage(PostgresRunStorage):
    """Does not look again for columns that it has once seen, before it looks for runs each second."""

    def has_run_stats_index_cols(self) -> bool:
        known = _known(self.postgres_url, os.getpid())
        if "run times" not in known and super().has_run_stats_index_cols():
            known.add("run times")
        return "run times" in known


class _ScheduleStorage(PostgresScheduleStorage):
    """Does not look again for a table or a migration that it has once seen."""

    def _has_instigators_table(self, conn: Connection) -> bool:
        known = _known(self.postgres_url, os.getpid())
        if "instigators" not in known and super()._has_instigators_table(conn):
            known.add("instigators")
        return "instigators" in known

    def has_built_index(self, migration_name: str) -> bool:
        known = _known(self.postgres_url, os.getpid())
        if migration_name not in known and super().has_built_index(migration_name):
            known.add(migration_name)
        return migration_name in known


@cache
def _known(_url: str, _process: int) -> set[str]:
    """What this process has seen to be in that storage."""
    return set()


@cache
def _engine(url: str, _process: int) -> Engine:
    """One for all instances of a process, and never one that was inherited by a fork."""
    engine = create_pg_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=KEPT_CONNECTIONS,
        max_overflow=MOST_CONNECTIONS - KEPT_CONNECTIONS,
        pool_recycle=KEPT_SECONDS,
    )
    event.listen(engine, "checkout", _require_open)
    return engine


def _require_open(connection: Any, *_: object) -> None:  # noqa: ANN401  psycopg2's
    """Have another connection opened where the server has closed this one: then there is something to read from it."""
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    if waiting.poll(0):
        raise DisconnectionError


@cache
def _forgotten() -> tempfile.TemporaryDirectory[str]:
    """A directory that goes with the process."""
    return tempfile.TemporaryDirectory(prefix="keyrotation-dagster-", ignore_cleanup_errors=True)
