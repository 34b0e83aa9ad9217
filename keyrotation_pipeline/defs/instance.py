"""Dagster's instance: the classes for itself and its run queue that `dagster.yaml` names.

The storage is dagster-postgres on the server that DAGSTER_PG_URL names, else SQLite in the root of the instance, which
all processes of `dagster dev` share. Only the class of an instance is told its root, and dagster-postgres as such needs
that variable, and a server that answers, merely to load `dagster.yaml`: `dg check defs` in a fresh clone would fail.

dagster-postgres also opens a connection for every query, and lists all tables before every second one: with five
sensors that was most of what an idle instance cost. Here each process keeps one or two connections, and remembers which
tables and indexes it has seen.

The run queue rejects runs launched with a configuration, before anything is started for them.
"""

import os
import select
from collections.abc import Mapping
from functools import cache
from typing import Any

import dagster as dg
from dagster._core.instance.ref import InstanceRef
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.storage.tags import BACKFILL_ID_TAG, PRIORITY_TAG
from dagster._serdes import ConfigurableClassData
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import create_pg_engine
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DisconnectionError

from keyrotation_pipeline.defs.triggers import BY_HAND_TAG, refuse_configured
from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.settings.loading import dagster_storage_url

# Beyond these, connections are closed after use: a process rarely needs more than one at a time.
KEPT_CONNECTIONS = 2
MOST_CONNECTIONS = 50
KEPT_SECONDS = 300


class Instance(dg.DagsterInstance):
    """`instance_class` of `dagster.yaml`: Dagster's own, with a storage that the environment chooses."""

    @classmethod
    def config_schema(cls) -> dict[str, Any]:
        """No settings beyond Dagster's."""
        return {}

    @staticmethod
    def config_defaults(base_dir: str) -> Mapping[str, ConfigurableClassData | None]:
        """What Dagster uses where `dagster.yaml` names nothing.

        Args:
            base_dir: the root of the instance: DAGSTER_HOME, or the directory that `dagster dev` makes.
        """
        defaults = InstanceRef.config_defaults(base_dir)
        if dagster_storage_url() is None:
            return defaults
        return {**defaults, "storage": ConfigurableClassData(__name__, InstanceStorage.__name__, "{}")}


class InstanceStorage(DagsterPostgresStorage):
    """The storage on the server; takes no configuration, so that no URL is in a file or a process list."""

    def __init__(self, url: str, inst_data: ConfigurableClassData | None = None) -> None:
        known = _known(url, os.getpid())
        super().__init__(url, should_autocreate_tables=not known, inst_data=inst_data)
        self._run_storage = _RunStorage(url, should_autocreate_tables=False, inst_data=inst_data)
        self._schedule_storage = _ScheduleStorage(url, should_autocreate_tables=False, inst_data=inst_data)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = shared_engine(url, os.getpid())  # noqa: SLF001  as their `optimize_for_webserver` does
        known.add("tables")

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """No configuration."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Any:  # noqa: ANN401, ARG003
        """The storage that the environment names.

        Raises:
            ConfigurationError: it names none; other processes of this Dagster have one.
        """
        if (url := dagster_storage_url()) is None:
            raise ConfigurationError(
                "DAGSTER_PG_URL is not set, and other processes of this Dagster store there; set it for all of them"
            )
        return cls(url, inst_data=inst_data)


class _RunStorage(PostgresRunStorage):
    """Checks only once that its columns exist, not each second before it looks for runs."""

    def has_run_stats_index_cols(self) -> bool:
        known = _known(self.postgres_url, os.getpid())
        if "run times" not in known and super().has_run_stats_index_cols():
            known.add("run times")
        return "run times" in known


class _ScheduleStorage(PostgresScheduleStorage):
    """Checks only once that its table and each migration exist."""

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
    """Tables, columns and migrations that this process has found in that storage."""
    return set()


@cache
def shared_engine(url: str, _process: int) -> Engine:
    """One engine for all instances of a process; never one inherited through a fork."""
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
    """Replaces a connection that the server has closed, which shows as something to read from it."""
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    if waiting.poll(0):
        raise DisconnectionError


class UnconfiguredRunCoordinator(QueuedRunCoordinator):
    """`run_coordinator` of `dagster.yaml`: Dagster's queue, for runs as they are defined."""

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Queues a run, and marks one that was launched through the web server, or is of a backfill from there.

        Raises:
            LaunchError: it brings a configuration, or a tag that decides how it runs.
        """
        run = context.dagster_run
        refuse_configured(run)
        # A request to the web server has a source, the daemon has none. That queues the runs of a backfill, for which
        # nothing of ours asks, with whatever tags somebody gave it.
        asked = getattr(context.workspace, "source", None) is not None
        if asked or BACKFILL_ID_TAG in run.tags:
            # With a higher priority it would be taken before the runs of an emergency.
            priority = {PRIORITY_TAG: "0"} if PRIORITY_TAG in run.tags else {}
            self._instance.add_run_tags(run.run_id, {BY_HAND_TAG: "true", **priority})
        return super().submit_run(context)
