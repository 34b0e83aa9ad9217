"""Backups by the clinic's own clock: through changes of the time, after downtime; and what the check claims."""

import logging
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context  # sets the time
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._scheduler.scheduler import ScheduleIterationTimes, launch_scheduled_runs  # the daemon itself
from dagster._utils.schedules import schedule_execution_time_iterator  # what the daemon goes by

from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.backups.backup import BackupMade
from keyrotation_pipeline.backups.catalog import BackupContext
from keyrotation_pipeline.defs import backups
from keyrotation_pipeline.defs.backups import backup_assets
from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.defs.partitions import OWN
from keyrotation_pipeline.defs.schedules import schedules
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.backups import BackupSet, BackupStatus, KeyCopy, StoredFile, signature_name
from keyrotation_pipeline.model.manifest import render
from keyrotation_pipeline_tests.defs.conftest import Dagster, failure_of, places
from keyrotation_pipeline_tests.fakes import V1, FakeSigner

INSTALLED = date(2026, 1, 1)
HEAD = AuditHead(1, "0" * 64)


def schedule_of(name: str, time_zone: str) -> dg.ScheduleDefinition:
    return next(each for each in schedules(OWN, time_zone, rehearse_nightly=False) if each.name == name)


def ticks(schedule: dg.ScheduleDefinition, after: datetime) -> Iterator[datetime]:
    zone = schedule.execution_timezone or "UTC"
    for tick in schedule_execution_time_iterator(after.timestamp(), str(schedule.cron_schedule), zone, ascending=True):
        yield datetime.fromtimestamp(tick.timestamp(), UTC)


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        pytest.param("Europe/Berlin", "2026-03-29", id="Berlin, an hour is missing"),
        pytest.param("Europe/Berlin", "2026-10-25", id="Berlin, an hour comes twice"),
        pytest.param("America/New_York", "2026-03-08", id="New York, an hour is missing"),
        pytest.param("America/New_York", "2026-11-01", id="New York, an hour comes twice"),
        pytest.param("Australia/Lord_Howe", "2026-10-04", id="Lord Howe, half an hour is missing"),
        pytest.param("UTC", "2026-03-29", id="UTC"),
    ],
)
def test_the_backup_ticks_once_a_day_at_three_by_the_wall_clock_through_changes_of_the_time(
    zone: str, day: str
) -> None:
    local = ZoneInfo(zone)
    start = datetime.fromisoformat(day).replace(tzinfo=local) - timedelta(days=1)
    found = [
        tick.astimezone(local)
        for tick in islice(ticks(schedule_of("daily_key_backup", zone), start.astimezone(UTC)), 3)
    ]
    assert [(tick.hour, tick.minute) for tick in found] == [(3, 0)] * 3
    assert [(tick.date() - start.date()).days for tick in found] == [0, 1, 2]


def test_the_recovery_test_ticks_on_the_first_day_of_each_quarter() -> None:
    local = ZoneInfo("Europe/Berlin")
    found = [
        t.astimezone(local)
        for t in islice(
            ticks(schedule_of("quarterly_recovery_test", "Europe/Berlin"), datetime(2026, 1, 2, tzinfo=UTC)), 4
        )
    ]
    assert [f"{tick:%Y-%m-%d %H:%M}" for tick in found] == [
        "2026-04-01 04:00", "2026-07-01 04:00", "2026-10-01 04:00", "2027-01-01 04:00",
    ]  # fmt: skip


def test_nobody_can_take_the_key_of_a_scheduled_run_beforehand(dagster: Dagster) -> None:
    schedule = dagster.definitions.resolve_schedule_def("daily_key_backup")
    keys = set[str | None]()
    for _ in range(2):
        at = datetime(2026, 4, 1, 3, tzinfo=UTC)
        resources = {"keyrotation": dagster.resource}
        with dg.build_schedule_context(
            instance=dagster.instance, scheduled_execution_time=at, resources=resources
        ) as asked:
            wanted = schedule(asked)
        assert isinstance(wanted, dg.RunRequest)
        keys.add(wanted.run_key)
    assert len(keys - {None}) == 2


def test_all_days_of_backups_at_once_are_one_run() -> None:
    """And not one for each day since the installation, each of which would fail."""
    assert backup_assets(OWN, "UTC", INSTALLED).backfill_policy == dg.BackfillPolicy.single_run()


def test_each_tick_asks_for_the_partition_of_its_own_day(dagster: Dagster) -> None:
    schedule = dagster.definitions.resolve_schedule_def("daily_key_backup")
    down_since = datetime(2026, 3, 28, 12, tzinfo=UTC)
    requests = []
    for tick in islice(ticks(schedule, down_since), 2):
        with dg.build_schedule_context(
            instance=dagster.instance,
            scheduled_execution_time=tick,
            repository_def=dagster.definitions.get_repository_def(),
            resources={"keyrotation": dagster.resource},
        ) as context:
            (request,) = schedule.evaluate_tick(context).run_requests or ()
        requests.append(request)
    assert [request.partition_key for request in requests] == ["2026-03-29", "2026-03-30"]
    assert len({request.run_key for request in requests}) == 2
    partitions = backup_assets(OWN, "UTC", INSTALLED).partitions_def
    assert partitions is not None
    assert all(partitions.has_partition_key(str(request.partition_key)) for request in requests)


@pytest.mark.parametrize(
    ("zone", "tick"),
    [
        pytest.param("Asia/Tokyo", "2026-04-01T03:00+09:00", id="Tokyo, the day before in UTC"),
        pytest.param("Pacific/Kiritimati", "2026-04-01T03:00+14:00", id="Kiritimati, furthest ahead"),
        pytest.param("America/Los_Angeles", "2026-04-01T03:00-07:00", id="Los Angeles, the same day in UTC"),
    ],
)
def test_a_backup_and_a_test_are_named_by_the_day_of_the_clinic_and_not_of_utc(
    dagster: Dagster, zone: str, tick: str
) -> None:
    at = datetime.fromisoformat(tick).astimezone(UTC)
    with dg.build_schedule_context(
        instance=dagster.instance, scheduled_execution_time=at, resources={"keyrotation": dagster.resource}
    ) as context:
        wanted = schedule_of("daily_key_backup", zone)(context)
    assert isinstance(wanted, dg.RunRequest)
    assert wanted.partition_key == "2026-04-01"
    partitions = backup_assets(OWN, zone, INSTALLED).partitions_def
    assert partitions is not None
    with partition_loading_context(effective_dt=at):
        assert partitions.get_last_partition_key() == "2026-04-01"
    with dg.build_schedule_context(
        instance=dagster.instance, scheduled_execution_time=at, resources={"keyrotation": dagster.resource}
    ) as context:
        schedule_of("quarterly_recovery_test", zone)(context)
    assert dagster.world.ledger.facts_of("recovery_test_due") == {"since": "2026-04-01"}


def test_at_three_in_the_morning_the_partition_of_that_very_day_is_there() -> None:
    partitions = backup_assets(OWN, "America/New_York", INSTALLED).partitions_def
    assert partitions is not None
    now = datetime(2026, 11, 1, 8, 0, tzinfo=UTC)  # 03:00 EST
    with partition_loading_context(effective_dt=now):
        assert partitions.get_last_partition_key() == "2026-11-01"


def test_without_a_recovery_key_the_schedule_opens_a_due_item(dagster: Dagster) -> None:
    schedule = dagster.definitions.resolve_schedule_def("quarterly_recovery_test")
    with dg.build_schedule_context(
        instance=dagster.instance,
        scheduled_execution_time=datetime(2026, 4, 1, 4, tzinfo=UTC),
        resources={"keyrotation": dagster.resource},
    ) as context:
        data = schedule.evaluate_tick(context)
    assert data.run_requests == []
    assert "recovery-test --key FILE" in str(data.skip_message)
    assert dagster.world.ledger.facts_of("recovery_test_due") == {"since": "2026-04-01"}


def test_the_days_begin_with_that_of_the_installation_in_the_clinics_own_time(dagster: Dagster) -> None:
    at = datetime(2026, 4, 1, 22, 30, tzinfo=UTC)
    definitions = build_definitions(dagster.world.pipeline.tables, 2, dagster.resource, "Asia/Tokyo", at)
    partitions = definitions.resolve_asset_graph().get(dg.AssetKey("database_backup")).partitions_def
    assert partitions is not None
    with partition_loading_context(effective_dt=at + timedelta(days=2)):
        assert partitions.get_partition_keys() == ["2026-04-02", "2026-04-03", "2026-04-04"]
    clock_was_wrong = datetime.now(UTC) + timedelta(days=900)
    definitions = build_definitions(dagster.world.pipeline.tables, 2, dagster.resource, "UTC", clock_was_wrong)
    partitions = definitions.resolve_asset_graph().get(dg.AssetKey("database_backup")).partitions_def
    assert partitions is not None
    assert len(partitions.get_partition_keys()) in {1, 2}  # today, and after midnight the day that has begun since


def installed_in_march(directory: Path) -> Path:
    """A configuration next to a home that was made on the first of March 2026."""
    home = directory / ".keyrotation"
    home.mkdir()
    (home / "installed").write_text("2026-03-01T12:00:00+00:00\n")
    (directory / "keyrotation.toml").write_text('[[tables]]\nname = "clients"\ncolumns = ["name"]\n')
    return directory / "keyrotation.toml"


def days_asked_for(directory: Path, *looks: datetime) -> list[str]:
    """Partitions of the runs that the daemon's own scheduler asks for when it looks at these times only."""
    location = directory / "location.py"
    location.write_text(
        "from keyrotation_pipeline.definitions import declared_definitions\ndefs = declared_definitions()\n"
    )
    origin = InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file=str(location)))
    queue = {"run_coordinator": {"module": "dagster", "class": "QueuedRunCoordinator"}}
    with (
        dg.instance_for_test(overrides=queue) as instance,
        WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as workspace,
    ):
        iterations: dict[str, ScheduleIterationTimes] = {}
        for at in looks:
            with freeze_time(at):
                list(launch_scheduled_runs(workspace, logging.getLogger("scheduler"), at, iterations))
        runs = [run for run in instance.get_runs() if run.job_name == "backup"]
        return sorted(run.tags["dagster/partition"] for run in runs)


@pytest.mark.filterwarnings("ignore:Property `ScheduleDefinition.environment_vars`:DeprecationWarning")
@pytest.mark.parametrize("now", [datetime(2026, 3, 31, 9, tzinfo=UTC)], ids=["on a morning"])
def test_after_downtime_dagsters_own_scheduler_shows_missed_days_as_missed_and_makes_todays(
    dagster: Dagster, now: datetime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYROTATION_CONFIG", str(installed_in_march(tmp_path)))
    job, made = dagster.definitions.resolve_job_def("backup"), []
    down, up_before_three = datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 3, 31, 1, tzinfo=UTC)

    def back_up_today(_site: BackupContext, *, database: bool) -> BackupMade:
        made.append(database)
        whole = BackupSet("20260331-090000-efa1f375", "clinic", (), None, HEAD)
        return BackupMade(whole, (), (), (), ())

    monkeypatch.setattr(backups, "back_up", back_up_today)
    said = {}
    with partition_loading_context(effective_dt=now):
        for day in days_asked_for(tmp_path, down, up_before_three, now):
            result = job.execute_in_process(instance=dagster.instance, partition_key=day, raise_on_error=False)
            said[day] = "made" if result.success else failure_of(result)
    assert list(said) == ["2026-03-30", "2026-03-31"]  # the 29th stays missing
    assert said["2026-03-30"].startswith("the backup of 2026-03-30 was missed, and a backup holds what is there now")
    assert "materialize the partition 2026-03-31" in said["2026-03-30"]
    assert (said["2026-03-31"], made) == ("made", [True])


KEY_FILE = "encryption-key-v1-20260105-090000-efa1f375.bin.gpg"


def a_set(file: StoredFile) -> BackupSet:
    return BackupSet("20260105-090000-efa1f375", "clinic", (KeyCopy(V1, "f" * 64, file),), None, HEAD)


@pytest.mark.parametrize(
    ("content", "passed", "said"),
    [
        pytest.param(b"message", True, "nothing was decrypted", id="whole"),
        pytest.param(b"messagf", False, f"{KEY_FILE} in directory .* is missing or damaged", id="damaged"),
        pytest.param(None, False, f"{KEY_FILE} in directory .* is missing or damaged", id="missing"),
    ],
)
def test_backup_decrypts_reads_again_and_claims_no_more_than_it_did(
    dagster: Dagster, content: bytes | None, passed: bool, said: str
) -> None:
    place = BackupDirectory(places["test"])
    sha256 = "ab530a13e45914982b79f9b7e3fba994cfd1f3fb22f71cea1afbf02b460c6d1d"  # of b"message"
    made = a_set(StoredFile(KEY_FILE, sha256, 7, ("F" * 40,)))
    text = render(made, FakeSigner().public)
    place.write(made.name, text)
    place.write(signature_name(made.name), FakeSigner().sign(text))
    if content is not None:
        place.write(KEY_FILE, content)
    found = dagster.check("backup_decrypts", "key_backup")
    assert found.passed is passed
    assert re.search(said, str(found.description))


def test_backup_decrypts_fails_while_there_is_no_backup(dagster: Dagster) -> None:
    found = dagster.check("backup_decrypts", "key_backup")
    assert not found.passed
    assert "has no backup; run `keyrotation backup`" in str(found.description)


@pytest.mark.parametrize(
    ("hours", "severity"),
    [
        pytest.param(1, dg.AssetCheckSeverity.WARN, id="amber at once"),
        pytest.param(30, dg.AssetCheckSeverity.ERROR, id="red after a day"),
    ],
)
def test_backup_decrypts_goes_by_what_status_calls_the_last_backup(
    dagster: Dagster, hours: int, severity: dg.AssetCheckSeverity
) -> None:
    place = BackupDirectory(places["test"])
    sha256 = "ab530a13e45914982b79f9b7e3fba994cfd1f3fb22f71cea1afbf02b460c6d1d"  # of b"message"
    made = a_set(StoredFile(KEY_FILE, sha256, 7, ("F" * 40,)))
    text = render(made, FakeSigner().public)
    for name, content in (
        (KEY_FILE, b"message"), (signature_name(made.name), FakeSigner().sign(text)), (made.name, text),
    ):  # fmt: skip
        place.write(name, content)
    dagster.world.vault.stands = BackupStatus(dagster.world.clock.at - timedelta(hours=hours), "x", ("no dump",))
    found = dagster.check("backup_decrypts", "key_backup")
    assert (found.passed, found.severity) == (False, severity)
    assert "no dump" in str(found.description)
