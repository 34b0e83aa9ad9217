"""Under a prefix, in a project whose assets, checks, jobs and sensors are called as ours: nobody takes the other's."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, ScheduleInstigatorData
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from keyrotation_pipeline.adapters.alerts.webhook import Webhook
from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.defs.partitions import Naming
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.incidents.alerts import Channels
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.requests import RequestStatus, Step, Walk
from keyrotation_pipeline.monitoring.scheduler_health import stalled
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.contract.test_alert_channels import http_server
from keyrotation_pipeline_tests.defs.conftest import Dagster, FakePipelineResource, channels, worlds
from keyrotation_pipeline_tests.defs.snapshots import snapshot_of
from keyrotation_pipeline_tests.defs.test_snapshot import COMMITTED, TABLES

NAMING = Naming(("security", "rotation"))
INSTALLED = datetime(2026, 1, 1, tzinfo=UTC)
HOST_VERSIONS = dg.DynamicPartitionsDefinition(name="key_version")


def host() -> dg.Definitions:
    """A project that uses every name of ours for something else."""

    def asset(*path: str, **options: object) -> dg.AssetsDefinition:
        @dg.asset(key=[*path], **options)  # type: ignore[call-overload,untyped-decorator]
        def made() -> None: ...

        assert isinstance(made, dg.AssetsDefinition)
        return made

    @dg.asset
    def encrypted_columns() -> None:
        raise dg.Failure("theirs breaks")

    @dg.asset_check(asset="key_version")
    def key_reads_back() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False, description="theirs is wrong")

    # On an asset of ours.
    @dg.asset_check(asset=NAMING.asset("encrypted_columns"))
    def host_looks_at_ours() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False, description="what the host thinks of ours")

    @dg.op
    def due_shards() -> None:
        raise dg.Failure("their shards break")

    @dg.job
    def reencrypt_rows() -> None:
        due_shards()

    jobs = [
        dg.define_asset_job(name, ["clients"]) for name in ("introduce_key", "retire_key", "backup", "rehearsal")
    ] + [dg.define_asset_job("evidence", dg.AssetSelection.all_asset_checks())]

    @dg.schedule(cron_schedule="* * * * *", job=jobs[2], default_status=dg.DefaultScheduleStatus.RUNNING)
    def rotation_calendar() -> dg.RunRequest:
        return dg.RunRequest()

    @dg.sensor(job=jobs[0])
    def rotation_conductor() -> dg.SkipReason:
        return dg.SkipReason("theirs")

    @dg.run_failure_sensor
    def run_failure_alert(context: dg.RunFailureSensorContext) -> None: ...

    names = ("clients", "key_backup", "retired_key")
    return dg.Definitions(
        assets=[
            *map(asset, names), asset("rows", "clients"), encrypted_columns,
            asset("key_version", partitions_def=HOST_VERSIONS),
        ],
        asset_checks=[key_reads_back, host_looks_at_ours],
        jobs=[*jobs, reencrypt_rows],
        schedules=[rotation_calendar],
        sensors=[rotation_conductor, run_failure_alert],
        resources={"pipeline": "theirs"},
        executor=dg.multiprocess_executor,
    )  # fmt: skip


@pytest.fixture
def dagster(dagster: Dagster, tmp_path: Path) -> Iterator[Dagster]:
    """The clinic of other tests, inside that project."""
    pipeline, resource = worlds["test"].pipeline, FakePipelineResource("test", NAMING)
    ours = build_definitions(pipeline.tables, pipeline.shards, resource, installed=INSTALLED)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield replace(dagster, definitions=dg.Definitions.merge(host(), ours), resource=resource, instance=instance)


def failure_recorded(dagster: Dagster, done: dg.ExecuteInProcessResult) -> list[str]:
    """The jobs of failed runs that our audit knows of, after a sensor has seen this one."""
    [event] = [event for event in done.all_events if event.is_run_failure]
    context = dg.build_run_status_sensor_context(
        sensor_name=NAMING.name("run_failure_alert"),
        dagster_event=event,
        dagster_instance=dagster.instance,
        dagster_run=done.dagster_run,
        resources={"keyrotation": dagster.resource},
    ).for_run_failure()
    dagster.definitions.get_repository_def().get_sensor_def(NAMING.name("run_failure_alert"))(context)
    return [json.loads(event.body)["facts"]["job"] for event in dagster.world.ledger.events(EventKind.RUN_FAILED)]


def test_every_name_carries_the_prefix_and_nothing_else_changes() -> None:
    named = build_definitions(
        TABLES, 2, PipelineResource(naming=NAMING), "Europe/Berlin", INSTALLED,
        rehearse_nightly=True, timestamps=True, witnesses=True,
    )  # fmt: skip
    # Of a name, or of a key: which of both it is, the line says.
    prefix = r"\bsecurity[/_]rotation([/_]|\b)"
    plain, committed = re.sub(prefix, "", snapshot_of(named)), COMMITTED.read_text()

    # A name that begins with rotation_ already has it once.
    unprefixed = re.sub(r"\brotation(_|\b)", "", plain), re.sub(r"\brotation(_|\b)", "", committed)
    assert sorted(unprefixed[0].splitlines()) == sorted(unprefixed[1].splitlines())
    bare = [line for line in snapshot_of(named).splitlines() if "security" not in line.split(" | ")[0]]
    assert bare == ["resource keyrotation"]


@pytest.mark.parametrize(
    ("prefix", "plain", "name"),
    [
        pytest.param((), "backup", "backup", id="none"),
        pytest.param(("rotation",), "backup", "rotation_backup", id="in front"),
        pytest.param(("rotation",), "rotation_conductor", "rotation_conductor", id="there already"),
        pytest.param(("security", "rotation"), "rotation_calendar", "security_rotation_calendar", id="of two parts"),
        pytest.param(("rot",), "rotation_conductor", "rot_rotation_conductor", id="a part of a word"),
    ],
)
def test_no_name_has_the_prefix_twice(prefix: tuple[str, ...], plain: str, name: str) -> None:
    assert Naming(prefix).name(plain) == name


def test_a_rotation_runs_to_its_end_inside_another_project(dagster: Dagster, approved: Walk) -> None:
    dagster.instance.add_dynamic_partitions("key_version", ["v2", "theirs"])

    assert dagster.conduct() == [
        NAMING.name(job) for job in ("introduce_key", "reencrypt_rows", "reencrypt_rows", "retire_key", "backup")
    ]
    assert dagster.world.ledger.walk(approved.id).status is RequestStatus.FINISHED
    done = {key.to_user_string() for key in dagster.instance.all_asset_keys()}
    assert {"security/rotation/retired_key", "security/rotation/rows/clients"} <= done
    assert not [key for key in done if not key.startswith("security/rotation/")]
    assert dagster.instance.get_dynamic_partitions("key_version") == ["v2", "theirs"]
    assert dagster.instance.get_dynamic_partitions(NAMING.name("key_version")) == ["v2"]


def test_what_ran_elsewhere_is_shown_under_the_prefix(dagster: Dagster, approved: Walk) -> None:
    walked_through(dagster, approved, Step.ROWS)
    result = dagster.tick("ledger_mirror")

    assert isinstance(result, dg.SensorResult)
    assert {event.asset_key.path[:2] and tuple(event.asset_key.path[:2]) for event in result.asset_events} == {
        ("security", "rotation")
    }
    rows = dagster.instance.get_latest_materialization_event(NAMING.asset("rows", "clients"))
    assert rows is not None
    assert rows.asset_materialization is not None
    link = "(/assets/security/rotation/zero_old_rows_proof)"
    assert link in str(rows.asset_materialization.metadata["next"].value)
    dagster.tick()
    assert dagster.instance.fetch_observations(NAMING.step(Step.ZERO_OLD_ROWS_PROOF), limit=1).records


def walked_through(dagster: Dagster, rotation: Walk, step: Step) -> None:
    for _ in runner.run(dagster.world.pipeline, rotation.id, dagster.world.report, step):
        pass


def test_our_evidence_evaluates_no_check_of_theirs(dagster: Dagster, approved: Walk) -> None:
    evidence = dagster.definitions.resolve_job_def(NAMING.name("evidence"))
    done = evidence.execute_in_process(instance=dagster.instance, raise_on_error=False)

    evaluated = {each.asset_check_key.name for each in done.get_asset_check_evaluations()}
    assert {"key_reads_back", "no_undeclared_ciphertext", "zero_old_rows"} <= evaluated
    assert "host_looks_at_ours" not in evaluated
    assert all(each.asset_key.path[0] == "security" for each in done.get_asset_check_evaluations())


@pytest.mark.parametrize("job", ["reencrypt_rows", "__ASSET_JOB"])
def test_a_run_of_theirs_that_fails_is_not_alerted_as_ours(dagster: Dagster, job: str) -> None:
    if job == "__ASSET_JOB":
        everything = dagster.definitions.resolve_implicit_global_asset_job_def()
        # A run of both: what is ours is done, what is theirs breaks.
        keys = [dg.AssetKey("encrypted_columns"), NAMING.asset("encrypted_columns")]
        done = everything.execute_in_process(instance=dagster.instance, asset_selection=keys, raise_on_error=False)
    else:
        theirs = dagster.definitions.resolve_job_def(job)
        done = theirs.execute_in_process(instance=dagster.instance, raise_on_error=False)
    assert not done.success
    assert failure_recorded(dagster, done) == []


def test_a_run_of_ours_that_fails_is_reported_also_when_a_person_started_it(dagster: Dagster, approved: Walk) -> None:
    everything = dagster.definitions.resolve_implicit_global_asset_job_def()
    done = everything.execute_in_process(
        instance=dagster.instance, asset_selection=[NAMING.asset("key_backup")], partition_key="2026-01-02",
        raise_on_error=False,
    )  # fmt: skip
    assert not done.success
    assert failure_recorded(dagster, done) == ["__ASSET_JOB"]


def test_a_failed_check_of_theirs_is_not_alerted_as_ours(dagster: Dagster) -> None:
    received: list[dict[str, Any]] = []
    dagster.world.database.rows["clients"][0]["first_name"] = "no value of ours"
    for job in ("evidence", NAMING.name("evidence")):
        dagster.definitions.resolve_job_def(job).execute_in_process(instance=dagster.instance, raise_on_error=False)
    with http_server(200, received) as url:
        channels["test"] = Channels((Webhook(url),))
        dagster.tick("alert_delivery")

    failing = {each["subject"] for each in received if each["subject"].endswith("fails")}
    assert "The check security/rotation/retired_key/every_value_decrypts fails" in failing
    assert not [each for each in failing if "host_looks_at_ours" in each or "/rotation/" not in each]


def test_what_they_switched_off_is_not_reported(dagster: Dagster) -> None:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="theirs"))
    for name in ("rotation_calendar", NAMING.name("daily_key_backup")):
        origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), name)
        dagster.instance.add_instigator_state(
            InstigatorState(
                origin, InstigatorType.SCHEDULE, InstigatorStatus.STOPPED, ScheduleInstigatorData("0 3 * * *")
            )
        )
    dagster.tick("ledger_mirror")
    heartbeats = dagster.world.pipeline.heartbeats.last()

    [sentence] = stalled(heartbeats, dagster.world.clock.at)
    assert sentence.startswith("daily_key_backup is switched off")
    assert {heartbeat.name for heartbeat in heartbeats} >= {"ledger_mirror", "rotation_calendar"}


@pytest.mark.parametrize(("job", "waits"), [(NAMING.name("introduce_key"), True), ("introduce_key", False)])
def test_the_conductor_waits_for_a_run_of_ours_alone(dagster: Dagster, approved: Walk, job: str, waits: bool) -> None:
    result = dagster.tick()
    assert isinstance(result, dg.SensorResult)
    [wanted] = result.run_requests or ()
    # As the daemon puts them; whoever reaches Dagster can put them on any run, too.
    tags = {**wanted.tags, "dagster/sensor_name": NAMING.name("rotation_conductor")}
    definition = dagster.definitions.resolve_job_def(job)
    dagster.instance.create_run_for_job(definition, tags=tags, status=dg.DagsterRunStatus.STARTED)

    assert isinstance(dagster.tick(), dg.SkipReason) is waits
