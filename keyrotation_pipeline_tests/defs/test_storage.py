"""Dagster's storage on a real server: connections are kept, and replaced when the server has closed them."""

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef

from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.defs.instance import KEPT_CONNECTIONS, Instance, InstanceStorage, shared_engine
from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline_tests.transactions import transactions

_OF_DAGSTER = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@pytest.fixture
def storage(database_url: str) -> Iterator[InstanceStorage]:
    url = database_url.replace("postgresql://", "postgresql+psycopg2://", 1)
    made = InstanceStorage(url)
    yield made
    shared_engine(url, os.getpid()).dispose()


def work(storage: InstanceStorage) -> None:
    """Some of what a tick of a sensor asks for."""
    assert storage.run_storage.get_runs() == []
    assert storage.schedule_storage.all_instigator_state() == []
    assert storage.schedule_storage.supports_batch_queries
    assert storage.event_log_storage.get_materialized_partitions(dg.AssetKey("retired_key")) == set()


def sessions(connection: Connection) -> set[int]:
    return {int(str(pid)) for (pid,) in connection.execute(_OF_DAGSTER).fetchall()}


def test_a_process_keeps_its_connections_for_every_instance_that_it_makes(
    storage: InstanceStorage, connection: Connection
) -> None:
    work(storage)
    kept = sessions(connection)
    assert 0 < len(kept) <= KEPT_CONNECTIONS
    for _ in range(3):
        work(InstanceStorage(storage.postgres_url))
    assert sessions(connection) == kept


def test_a_connection_that_the_server_has_closed_is_replaced_before_it_is_used(
    storage: InstanceStorage, connection: Connection
) -> None:
    work(storage)
    before = sessions(connection)
    connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s::int[]) AS pid", (list(before),))
    work(storage)
    assert not sessions(connection) & before


def test_what_a_process_has_seen_to_be_there_is_not_asked_for_again(
    storage: InstanceStorage, connection: Connection, database_url: str
) -> None:
    def cost() -> int:
        before = transactions(database_url, connection)
        looked = InstanceStorage(storage.postgres_url)
        looked.run_storage.get_run_records()
        shared_engine(storage.postgres_url, os.getpid()).dispose()
        return transactions(database_url, connection) - before

    cost()
    # The start of a session, and the question itself.
    assert min(cost() for _ in range(2)) == 2


@pytest.mark.parametrize("url", [None, "postgresql+psycopg2://postgres@/dagster?host=/nowhere"])
def test_the_environment_chooses_between_the_root_of_the_instance_and_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    monkeypatch.delenv("DAGSTER_PG_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("DAGSTER_PG_URL", url)
    overrides = {"instance_class": {"module": Instance.__module__, "class": Instance.__name__}}
    chosen = InstanceRef.from_dir(str(tmp_path), overrides=overrides).storage_data
    assert chosen is not None
    expected = ("DagsterSqliteStorage", {"base_dir": str(tmp_path)}) if url is None else ("InstanceStorage", {})
    assert (chosen.class_name, chosen.config_dict) == expected
    if url is not None:
        monkeypatch.delenv("DAGSTER_PG_URL")
        with pytest.raises(ConfigurationError, match="set it for all of them"):
            chosen.rehydrate(as_type=InstanceStorage)
