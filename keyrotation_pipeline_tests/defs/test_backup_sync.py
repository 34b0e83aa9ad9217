"""A backup that the command made is shown in Dagster, with the time when it was made, and only if it is there."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from keyrotation_pipeline.backups.backup import BackupMade, back_up
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backups import BackupStatus
from keyrotation_pipeline_tests.defs.conftest import Dagster

KEYS, DATABASE = dg.AssetKey("key_backup"), dg.AssetKey("database_backup")
AGO = timedelta(hours=3)


@pytest.fixture
def now() -> datetime:
    """Backups are made some hours before Dagster starts."""
    return datetime.now(UTC) - AGO


def make(dagster: Dagster) -> BackupMade:
    """What `keyrotation backup` does."""
    with dagster.resource.open_backups("dagster test") as site:
        done = back_up(site)
    dagster.world.vault.stands = BackupStatus(done.made.made_at, done.made.name)
    return done


def shown(dagster: Dagster, key: dg.AssetKey) -> dg.EventLogEntry | None:
    return dagster.instance.get_latest_materialization_event(key)


def test_a_backup_of_the_command_is_shown_once_with_its_own_time(dagster: Dagster, now: datetime) -> None:
    done = make(dagster)
    for _ in range(2):
        dagster.tick("ledger_mirror")

    for key in (KEYS, DATABASE):
        entry = shown(dagster, key)
        assert entry is not None
        assert entry.asset_materialization is not None
        assert entry.asset_materialization.metadata["manifest"].value == done.made.name
        assert entry.asset_materialization.partition == f"{now:%Y-%m-%d}"
        assert "made outside Dagster by " in str(entry.asset_materialization.description)
        assert abs(datetime.fromtimestamp(entry.timestamp, UTC) - done.made.made_at) < timedelta(seconds=2)
        assert len(dagster.instance.fetch_materializations(key, 10).records) == 1


def test_a_backup_that_is_in_no_place_is_not_shown(dagster: Dagster) -> None:
    make(dagster)
    dagster.world.vault.stands = BackupStatus(None)
    dagster.tick("ledger_mirror")

    assert shown(dagster, KEYS) is None


@pytest.mark.parametrize(
    "facts", [{"set": "backup-29990101-000000.json"}, {"set": 1}, {}, {"set": "its own", "keys": 1}]
)
def test_an_event_of_the_databases_owner_shows_no_backup(dagster: Dagster, facts: dict[str, object]) -> None:
    found = dagster.world.vault.stands
    named = {**facts, "set": found.manifest} if facts.get("set") == "its own" else facts
    dagster.world.ledger.append(Note(EventKind.BACKUP_MADE, named))

    assert isinstance(dagster.tick("ledger_mirror"), dg.SensorResult)
    assert shown(dagster, KEYS) is None


def test_a_run_without_a_partition_makes_the_backup_of_today(dagster: Dagster, now: datetime) -> None:
    job = dagster.definitions.resolve_job_def("backup")
    assert job.execute_in_process(instance=dagster.instance, raise_on_error=False).success

    for key in (KEYS, DATABASE):
        assert dagster.instance.get_materialized_partitions(key) == {f"{now:%Y-%m-%d}"}


def test_a_backup_of_a_run_is_left_to_that_run(dagster: Dagster) -> None:
    dagster.world.ledger.actor = "dagster run 1234"
    make(dagster)
    dagster.tick("ledger_mirror")

    assert shown(dagster, KEYS) is None
