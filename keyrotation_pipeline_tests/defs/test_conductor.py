"""The sensor carries a rotation from its approval to its end, waits where it must, and survives what is not there."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

from keyrotation_pipeline.defs.conductor import CREATING_A_JOB
from keyrotation_pipeline.defs.ledger_sync import Outcome, sync
from keyrotation_pipeline.defs.outside_reports import Seal
from keyrotation_pipeline.defs.partitions import OWN
from keyrotation_pipeline.errors import BlockedError, DatabaseUnavailableError, KeyRotationError
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.backups import BackupStatus
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.progress import Rewritten
from keyrotation_pipeline.model.requests import RequestStatus, Step, Walk
from keyrotation_pipeline.model.tables import Shard
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.conducting import sentences_of
from keyrotation_pipeline_tests.defs.conftest import Dagster, FakePipelineResource, dump_failures, failure_of
from keyrotation_pipeline_tests.fakes import V1, V2, FakeKeyStore, FakeLedger, FakeRewriting

BOTH_SLOTS = {"reencrypt_rows/1", "reencrypt_rows/2"}
TABLES = ("clients", "billing.Invoices")
Walked = Callable[[Step | None], Walk]

# As the daemon puts them on the conductor's runs.
TRUE_TAGS = {"dagster/sensor_name": "rotation_conductor", "keyrotation/attempt": "1"}
# Made by their own schedule, after the walk, or when there is an incident.
BACKUPS = {
    dg.AssetKey(name)
    for name in (
        "key_backup", "database_backup", "recovery_test", "rotation_rehearsal",
        "incident_report", "breach_decision", "access_audit",
    )
}  # fmt: skip


def requests(dagster: Dagster) -> list[dg.RunRequest]:
    result = dagster.tick()
    assert isinstance(result, dg.SensorResult), result
    return list(result.run_requests or ())


def skipped(dagster: Dagster, sensor: str = "rotation_conductor") -> str:
    result = dagster.tick(sensor)
    assert isinstance(result, dg.SkipReason), result
    return str(result.skip_message)


def test_ticks_carry_a_rotation_to_its_end(dagster: Dagster, approved: Walk) -> None:
    jobs: list[list[str | None]] = []
    while len(jobs) < 10:
        wanted = requests(dagster)
        jobs.append([request.job_name for request in wanted])
        assert all(dagster.run(request).success for request in wanted)
        if jobs[-1] == ["evidence"]:
            break

    assert jobs == [["introduce_key"], ["reencrypt_rows"] * 2, ["retire_key"], ["backup"], ["evidence"]]
    rotation = dagster.world.ledger.walk(approved.id)
    assert rotation.status is RequestStatus.FINISHED
    assert dagster.world.keys.archived() == (V1,)
    assert all(
        cell in {None, ""} or str(cell).startswith("v2:")
        for rows in dagster.world.database.rows.values()
        for row in rows
        for cell in row.values()
    )
    assert "no rotation is open" in skipped(dagster)


def test_every_asset_and_check_is_green_at_the_end(dagster: Dagster, approved: Walk) -> None:
    for _ in range(5):
        for request in requests(dagster):
            dagster.run(request)
    graph = dagster.definitions.resolve_asset_graph()

    for key in graph.materializable_asset_keys - BACKUPS - {dg.AssetKey("rotation_readiness"), dg.AssetKey("status")}:
        assert dagster.instance.get_latest_materialization_event(key), key
    for shards in (dagster.instance.get_materialized_partitions(dg.AssetKey(["rows", "clients"])),):
        assert set(shards) == {"v2|00", "v2|01"}
    evaluations = [
        event.dagster_event.asset_check_evaluation_data
        for run in dagster.instance.get_runs()
        for event in dagster.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        if event.dagster_event
    ]
    assert {each.asset_check_key for each in evaluations} == graph.asset_check_keys
    assert all(each.passed for each in evaluations if each.asset_key not in BACKUPS)


def test_the_partition_is_added_with_the_first_run(dagster: Dagster, approved: Walk) -> None:
    dagster.tick()

    assert dagster.instance.get_dynamic_partitions("key_version") == ["v2"]


def test_shard_runs_evaluate_no_check(dagster: Dagster, walked: Walked) -> None:
    walked(Step.PRIMARY_KEY_ROLLOUT)

    results = [dagster.run(request) for request in requests(dagster)]
    assert [result.get_asset_check_evaluations() for result in results] == [[]] * 2


def test_one_run_takes_every_shard_that_is_due_and_each_is_a_partition(dagster: Dagster, walked: Walked) -> None:
    rotation = walked(Step.PRIMARY_KEY_ROLLOUT)
    dagster.tick("ledger_mirror")
    first, second = requests(dagster)
    with dagster.world.ledger.lock(f"{rotation.id}/rows/clients shard 00"):
        result = dagster.run(first)

    assert result.success
    shown = {name: set(dagster.instance.get_materialized_partitions(dg.AssetKey(["rows", name]))) for name in TABLES}
    assert shown == {"clients": {"v2|01"}, "billing.Invoices": {"v2|00", "v2|01"}}
    [event] = dagster.instance.fetch_materializations(dg.AssetKey(["rows", "clients"]), limit=1).records
    assert event.run_id == result.run_id
    assert dagster.run(second).success
    assert shown_by_mirror(dagster) == []
    assert [request.job_name for request in requests(dagster)] == ["retire_key"]


def launch_rows(dagster: Dagster, **tags: str) -> list[str | None]:
    """Why the steps of a run failed that somebody launched, or that has these tags."""
    job = dagster.definitions.resolve_job_def("reencrypt_rows")
    return sentences_of(job.execute_in_process(instance=dagster.instance, tags=tags, raise_on_error=False))


def test_rows_that_somebody_launches_without_a_rotation_say_so(dagster: Dagster) -> None:
    assert launch_rows(dagster) == ["no rotation is open; request one with `keyrotation request --reason TEXT`"]
    assert launch_rows(dagster, **TRUE_TAGS) == []  # of the conductor: it was cancelled meanwhile


def test_rows_that_somebody_launches_with_no_shard_due_say_so(dagster: Dagster, walked: Walked) -> None:
    launched = partial(launch_rows, dagster)
    by_hand = {**TRUE_TAGS, "keyrotation/by_hand": "true"}  # and with the tags of the conductor, copied
    rotation = walked(Step.KEY_VERSION)
    due = f"no shard is due in rotation {rotation.id}; due is: dual_key_rollout; run `keyrotation rotate {rotation.id}`"
    assert (launched(), launched(**by_hand)) == ([due], [due])
    assert launched(**TRUE_TAGS) == []  # another run had taken what was due
    walked(Step.PRIMARY_KEY_ROLLOUT)
    with ExitStack() as others:
        for table, shard in product(TABLES, ("00", "01")):
            others.enter_context(dagster.world.ledger.lock(f"{rotation.id}/rows/{table} shard {shard}"))
        assert launched() == [f"other runs work on every due shard of rotation {rotation.id}; wait for them"]
    assert launched() == []
    assert len([each for each in dagster.world.ledger.walk(rotation.id).steps if each.table]) == 4


def test_a_shard_that_fails_keeps_no_other_from_its_turn(
    dagster: Dagster, walked: Walked, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation = walked(Step.PRIMARY_KEY_ROLLOUT)
    rewrite = FakeRewriting.reencrypt_shard

    def refused(rewriting: FakeRewriting, request: str, shard: Shard, *others: Any) -> Rewritten:  # noqa: ANN401  passed on
        if str(shard.table.name) == "clients" and shard.index == 0:
            raise BlockedError("table clients stays locked; end session 7")
        return rewrite(rewriting, request, shard, *others)

    monkeypatch.setattr(FakeRewriting, "reencrypt_shard", refused)
    results = [dagster.run(request) for request in requests(dagster)]
    assert [failure_of(result) for result in results] == ["table clients stays locked; end session 7"] * 2

    records = [(each.table, each.shard) for each in dagster.world.ledger.walk(rotation.id).steps if each.table]
    assert records == [("billing.Invoices", 0), ("billing.Invoices", 1), ("clients", 1)]
    assert "next attempt at" in skipped(dagster)
    monkeypatch.undo()
    a_minute_later(dagster)
    [again] = requests(dagster)
    assert dagster.run(again).success
    assert dagster.world.ledger.walk(rotation.id).done(Step.ROWS, "clients", 0)


def test_nothing_is_started_while_a_run_for_it_is_in_progress(dagster: Dagster, approved: Walk) -> None:
    [request] = requests(dagster)
    job = dagster.definitions.resolve_job_def(str(request.job_name))
    dagster.instance.create_run_for_job(job, tags={**TRUE_TAGS, **request.tags}, status=dg.DagsterRunStatus.STARTED)

    assert skipped(dagster) == "in progress: introduce_key"


def test_a_run_that_went_with_its_machine_is_tried_again(dagster: Dagster, walked: Walked) -> None:
    rotation = walked(Step.PRIMARY_KEY_ROLLOUT)
    wanted = requests(dagster)
    for request in wanted:
        job = dagster.definitions.resolve_job_def(str(request.job_name))
        run = dagster.instance.create_run_for_job(job, tags={**TRUE_TAGS, **request.tags})
        dagster.instance.handle_new_event(happened(run, dg.DagsterEventType.RUN_START))
    dagster.world.clock.at = datetime.now(UTC) + timedelta(minutes=4)
    assert "in progress" in skipped(dagster)
    dagster.world.clock.at += timedelta(minutes=2)
    with dagster.world.ledger.lock(f"{rotation.id}/rows/billing.Invoices shard 01"):
        assert "in progress" in skipped(dagster)

    again = requests(dagster)
    assert {run.status for run in dagster.instance.get_runs()} == {dg.DagsterRunStatus.FAILURE}
    assert [request.tags["keyrotation/attempt"] for request in again] == ["2", "2"]
    assert all(dagster.run(request).success for request in again)


def happened(run: dg.DagsterRun, kind: dg.DagsterEventType, message: str = "") -> dg.EventLogEntry:
    """The last event of a run."""
    about = EngineEventData() if kind is dg.DagsterEventType.ENGINE_EVENT else None
    event = dg.DagsterEvent(kind.value, run.job_name, event_specific_data=about)
    now = datetime.now(UTC).timestamp()
    return dg.EventLogEntry(None, 10, message, run.run_id, now, None, run.job_name, event)  # type: ignore[no-untyped-call]


def launching(dagster: Dagster, request: dg.RunRequest, *events: tuple[dg.DagsterEventType, str]) -> dg.DagsterRun:
    """A run that the daemon has begun to launch, and what happened to it since."""
    job = dagster.definitions.resolve_job_def(str(request.job_name))
    run = dagster.instance.create_run_for_job(job, tags={**TRUE_TAGS, **request.tags})
    for kind, message in ((dg.DagsterEventType.RUN_STARTING, ""), *events):
        dagster.instance.handle_new_event(happened(run, kind, message))
    return run


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([], id="before it asked for a Job"),
        pytest.param([(dg.DagsterEventType.ENGINE_EVENT, CREATING_A_JOB)], id="while it asked for a Job"),
    ],
)
def test_a_run_whose_daemon_died_before_it_made_a_worker_is_ended_after_a_minute_and_a_half(
    dagster: Dagster, walked: Walked, events: list[tuple[dg.DagsterEventType, str]]
) -> None:
    rotation = walked(Step.PRIMARY_KEY_ROLLOUT)
    first, second = requests(dagster)
    run = launching(dagster, first, *events)
    other = launching(dagster, second, (dg.DagsterEventType.RUN_START, ""))
    dagster.world.clock.at = datetime.now(UTC) + timedelta(seconds=80)
    assert set(skipped(dagster).removeprefix("in progress: ").split(", ")) == BOTH_SLOTS
    dagster.world.clock.at += timedelta(seconds=15)
    with dagster.world.ledger.lock(f"{rotation.id}/rows/clients shard 01"):  # the other one is at work
        dagster.tick()
    statuses = {each.run_id: each.status for each in dagster.instance.get_runs()}
    assert statuses == {run.run_id: dg.DagsterRunStatus.FAILURE, other.run_id: dg.DagsterRunStatus.STARTED}


def test_a_run_whose_worker_was_made_has_the_time_that_dagster_allows_it(dagster: Dagster, walked: Walked) -> None:
    walked(Step.PRIMARY_KEY_ROLLOUT)
    engine = dg.DagsterEventType.ENGINE_EVENT
    made = [(engine, CREATING_A_JOB), (engine, "Kubernetes run worker job created")]
    for request in requests(dagster):
        launching(dagster, request, *made)
    dagster.world.clock.at = datetime.now(UTC) + timedelta(minutes=9)
    assert set(skipped(dagster).removeprefix("in progress: ").split(", ")) == BOTH_SLOTS


def test_a_slot_that_failed_delays_no_other_one(dagster: Dagster, walked: Walked) -> None:
    walked(Step.PRIMARY_KEY_ROLLOUT)
    first, second = requests(dagster)
    failed = launching(dagster, first)
    dagster.instance.report_run_failed(failed)
    [request] = requests(dagster)
    assert request.tags["keyrotation/subject"] == second.tags["keyrotation/subject"]


def test_a_blocked_proof_is_tried_again_a_minute_later(dagster: Dagster, walked: Walked) -> None:
    rotation = walked(Step.ROWS)
    dagster.world.database.rows["clients"][0]["email"] = "v1:stale"
    dagster.world.database.locked.add(("clients", 0))
    [request] = requests(dagster)
    assert not dagster.run(request).success

    assert "next attempt at" in skipped(dagster)
    blocked_by = dagster.world.ledger.walk(rotation.id).blocked_by
    assert blocked_by is not None
    assert blocked_by in skipped(dagster)

    dagster.world.clock.at = datetime.now(UTC) + timedelta(seconds=61)
    dagster.world.database.locked.clear()
    [again] = requests(dagster)
    assert str(again.run_key).startswith(f"{rotation.id}/retire_key/2/")
    assert dagster.run(again).success


def a_minute_later(dagster: Dagster) -> None:
    dagster.world.clock.at = datetime.now(UTC) + timedelta(seconds=61)


def test_a_key_store_that_does_not_answer_is_tried_again_a_minute_later(dagster: Dagster, walked: Walked) -> None:
    rotation = walked(Step.ROWS)
    [request] = requests(dagster)
    dagster.world.keys.unavailable = "the key store does not answer; try again"
    assert not dagster.run(request).success
    assert "the key store does not answer" in skipped(dagster)

    a_minute_later(dagster)
    [again] = requests(dagster)
    dagster.world.keys.unavailable = None
    assert str(again.run_key).startswith(f"{rotation.id}/retire_key/2/")
    assert dagster.run(again).success


def lost_primary(keys: FakeKeyStore) -> None:
    keys.primary_version = None


def another_target(keys: FakeKeyStore) -> None:
    keys.live[V2] = KeyMaterial.generate()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        pytest.param(lost_primary, "names no primary", id="no primary"),
        pytest.param(another_target, "holds another v2", id="another key"),
        pytest.param(lambda keys: keys.broken.add(V1), "v1 is not a key", id="a broken entry"),
    ],
)
def test_a_damaged_key_store_stops_the_rotation_until_it_is_repaired(
    dagster: Dagster, walked: Walked, damage: Callable[[FakeKeyStore], None], sentence: str
) -> None:
    rotation = walked(Step.ROWS)
    keys = dagster.world.keys
    whole = (dict(keys.live), keys.primary_version)
    damage(keys)
    [request] = requests(dagster)
    assert not dagster.run(request).success
    a_minute_later(dagster)
    assert "stopped until the key store is repaired: " in (reported := skipped(dagster))
    assert sentence in reported

    (keys.live, keys.primary_version), keys.broken = whole, set()
    [again] = requests(dagster)
    assert str(again.run_key).startswith(f"{rotation.id}/retire_key/2/")
    assert dagster.run(again).success


def test_a_run_that_died_is_taken_up_where_it_was(dagster: Dagster, walked: Walked) -> None:
    walked(Step.DUAL_KEY_ROLLOUT)

    [request] = requests(dagster)
    assert [key.to_user_string() for key in request.asset_selection or ()] == ["primary_key_rollout"]


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        pytest.param(RequestStatus.PAUSED, "is paused; continue with `keyrotation resume", id="paused"),
        pytest.param(RequestStatus.REQUESTED, "2 more approvals", id="not approved"),
    ],
)
def test_a_waiting_rotation_says_what_it_waits_for(
    dagster: Dagster, requested: Walk, status: RequestStatus, sentence: str
) -> None:
    dagster.world.ledger.state.requests[requested.id] = replace(requested, status=status)

    assert sentence in skipped(dagster)


def test_no_run_is_started_before_an_application_is_seen_to_name_its_primary(dagster: Dagster, approved: Walk) -> None:
    dagster.world.rollout.running = ()
    assert skipped(dagster).startswith("waiting for no application instance reports itself")
    dagster.world.rollout.running = None
    assert [request.job_name for request in requests(dagster)] == ["introduce_key"]
    assert dagster.world.keys.versions() == (V1,)


@pytest.mark.parametrize("sensor", ["rotation_conductor", "ledger_mirror"])
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        pytest.param(
            DatabaseUnavailableError("cannot connect to clinic@db; start it"),
            "cannot connect to clinic@db",
            id="database down",
        ),
        pytest.param(ValueError("SECRET"), "unexpected ValueError at", id="defect"),
    ],
)
def test_a_sensor_survives(
    dagster: Dagster, monkeypatch: pytest.MonkeyPatch, sensor: str, error: Exception, sentence: str
) -> None:
    def fail(self: FakePipelineResource, actor: str) -> AbstractContextManager[Pipeline]:
        raise error

    monkeypatch.setattr(FakePipelineResource, "open", fail)
    reason = skipped(dagster, sensor)

    assert reason.startswith(sentence)
    assert "SECRET" not in reason


def test_steps_of_the_command_line_are_shown_too(dagster: Dagster, walked: Walked) -> None:
    walked(None)
    result = dagster.tick("ledger_mirror")

    assert isinstance(result, dg.SensorResult)
    assert dagster.instance.get_dynamic_partitions("key_version") == ["v2"]
    for key in (
        dagster.definitions.resolve_asset_graph().materializable_asset_keys
        - BACKUPS
        - {dg.AssetKey("encrypted_columns"), dg.AssetKey("rotation_readiness"), dg.AssetKey("status")}
    ):
        expected = {"v2|00", "v2|01"} if key.path[0] == "rows" else {"v2"}
        assert set(dagster.instance.get_materialized_partitions(key)) == expected
    assert skipped(dagster, "ledger_mirror") == "Dagster shows every step that the ledger has"
    assert "is about to back up" in skipped(dagster)
    dagster.world.clock.at += timedelta(seconds=30)
    assert [request.job_name for request in requests(dagster)] == ["backup"]


def synced(dagster: Dagster, seq: int = 0) -> tuple[Outcome, int]:
    return sync(dagster.instance, OWN, dagster.world.pipeline, Seal(dagster.resource.signer()), seq)


def shown_by_mirror(dagster: Dagster, seq: int = 0) -> list[str]:
    """The assets whose steps the mirror adds."""
    result, _ = synced(dagster, seq)
    events = result.asset_events if isinstance(result, dg.SensorResult) else ()
    return [each.asset_key.to_user_string() for each in events if isinstance(each, dg.AssetMaterialization)]


def test_what_was_shown_is_not_read_again(dagster: Dagster, walked: Walked, monkeypatch: pytest.MonkeyPatch) -> None:
    walked(Step.KEY_VERSION)
    head = dagster.world.ledger.head().seq
    assert shown_by_mirror(dagster) == ["key_version"]
    assert synced(dagster)[1] == head
    monkeypatch.setattr("keyrotation_pipeline.defs.ledger_sync._runs_here", lambda *_: pytest.fail("history was read"))
    assert shown_by_mirror(dagster, head) == []
    monkeypatch.undo()
    walked(Step.DUAL_KEY_ROLLOUT)
    assert "dual_key_rollout" in shown_by_mirror(dagster, head)
    # A database that was restored is behind what was shown.
    assert synced(dagster, 10**9)[1] == dagster.world.ledger.head().seq


@pytest.mark.parametrize("read", ["walk", "signatures"])
def test_the_ledger_is_read_once_for_all_steps_that_are_shown(
    dagster: Dagster, walked: Walked, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    walked(None)
    ledger, original, asked = dagster.world.ledger, getattr(dagster.world.ledger, read), []

    def counted(*arguments: object) -> object:
        asked.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(ledger, read, counted)
    assert len(shown_by_mirror(dagster)) > 8
    assert len(asked) == 1


def test_steps_of_a_rotation_that_runs_here_are_not_shown_twice(dagster: Dagster, walked: Walked) -> None:
    walked(Step.KEY_VERSION)
    job = dagster.definitions.resolve_job_def("introduce_key")
    [wanted] = requests(dagster)
    tags = {**TRUE_TAGS, **wanted.tags}
    dagster.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    dagster.instance.add_dynamic_partitions("key_version", ["v2"])

    assert "every step" in skipped(dagster, "ledger_mirror")
    assert synced(dagster, 1)[1] == 1, "still to be shown, if not by the run"


def test_a_step_of_somebodys_own_run_is_shown_by_that_run_or_a_minute_later(dagster: Dagster, walked: Walked) -> None:
    walked(Step.KEY_VERSION)
    tags = {"dagster/partition": "v2", "keyrotation/by_hand": "true"}
    dagster.instance.add_run(dg.DagsterRun("__ASSET_JOB", tags=tags, status=dg.DagsterRunStatus.STARTED))

    assert shown_by_mirror(dagster) == []
    dagster.world.clock.at += timedelta(minutes=1)
    assert shown_by_mirror(dagster) == ["key_version"]


def test_a_failed_run_is_in_the_audit(dagster: Dagster, approved: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyRotationError("the operating system has no randomness; wait")

    monkeypatch.setattr("keyrotation_pipeline.rotation.runner.require_authorised", fail)
    [request] = requests(dagster)
    result = dagster.run(request)
    [event] = [event for event in result.all_events if event.is_run_failure]
    context = dg.build_run_status_sensor_context(
        sensor_name="run_failure_alert",
        dagster_event=event,
        dagster_instance=dagster.instance,
        dagster_run=result.dagster_run,
        resources={"keyrotation": dagster.resource},
    ).for_run_failure()
    dagster.definitions.get_repository_def().get_sensor_def("run_failure_alert")(context)

    facts = dagster.world.ledger.facts_of("dagster_run_failed")
    described = {"job": "introduce_key", "subject": "introduce_key", "attempt": "1", "retried": "yes"}
    assert facts == {"run": result.run_id, **described}


def test_the_calendar_evaluates_every_check_each_morning(dagster: Dagster) -> None:
    schedule = dagster.definitions.get_repository_def().get_schedule_def("rotation_calendar")

    assert schedule.cron_schedule == "0 6 * * *"
    assert schedule.job_name == "evidence"
    assert len(dagster.check_run().get_asset_check_evaluations()) == 10


def test_the_fakes_differ_between_versions(dagster: Dagster, walked: Walked) -> None:
    walked(None)
    states = {record.version: record.state for record in FakeLedger.keys(dagster.world.ledger)}

    assert states == {V1: KeyState.ARCHIVED, V2: KeyState.ACTIVE}


@pytest.mark.parametrize(("job", "tags"), [
    pytest.param("introduce_key", {"keyrotation/attempt": "two"}, id="an attempt that is no number"),
    pytest.param("introduce_key", {"keyrotation/attempt": "-1"}, id="an attempt below one"),
    pytest.param("introduce_key", {"keyrotation/attempt": "\u0663"}, id="a digit of another script"),
    pytest.param("introduce_key", {"keyrotation/attempt": "9" * 5000}, id="an attempt of 5000 digits"),
    pytest.param("introduce_key", {"keyrotation/attempt": ""}, id="an empty attempt"),
    pytest.param("introduce_key", {"dagster/sensor_name": "another"}, id="another sensor's"),
    pytest.param("introduce_key", {"dagster/sensor_name": ""}, id="no sensor's"),
    pytest.param("evidence", {}, id="a job of another subject"),
    pytest.param("a_job_of_others", {}, id="a job of others"),
    pytest.param("introduce_key", {"keyrotation/by_hand": "true"}, id="launched manually, with every tag right"),
])  # fmt: skip
def test_a_run_with_forged_tags_neither_stops_the_conductor_nor_is_waited_for(
    dagster: Dagster, approved: Walk, job: str, tags: dict[str, str]
) -> None:
    subject = {"keyrotation/rotation": approved.id, "keyrotation/subject": "introduce_key"}
    forged = dg.DagsterRun(job_name=job, tags=TRUE_TAGS | subject | tags, status=dg.DagsterRunStatus.STARTED)
    dagster.instance.add_run(forged)

    assert [request.tags["keyrotation/attempt"] for request in requests(dagster)] == ["1"]


def test_nobody_can_take_the_key_of_a_run_beforehand(dagster: Dagster, approved: Walk) -> None:
    assert requests(dagster)[0].run_key != requests(dagster)[0].run_key


def test_a_forged_run_does_not_hide_what_the_command_line_did(dagster: Dagster, walked: Walked) -> None:
    rotation = walked(None)
    tags = {"keyrotation/rotation": rotation.id}
    dagster.instance.add_run(dg.DagsterRun("evidence", tags=tags, status=dg.DagsterRunStatus.STARTED))

    assert isinstance(dagster.tick("ledger_mirror"), dg.SensorResult)


def finished_in_dagster(dagster: Dagster) -> None:
    """Carry an approved rotation to its end, up to the backup."""
    while (wanted := requests(dagster))[0].job_name != "backup":
        assert all(dagster.run(request).success for request in wanted)


def test_a_backup_that_failed_is_made_again_after_an_hour_three_times_and_keeps_no_check_waiting(
    dagster: Dagster, approved: Walk
) -> None:
    finished_in_dagster(dagster)
    dagster.world.vault.stands = BackupStatus(None)
    dump_failures.append("pg_dump ended with 3; see the log")
    (first,) = requests(dagster)
    assert "pg_dump ended with 3" in failure_of(dagster.run(first))

    assert dagster.world.ledger.walk(approved.id).status is RequestStatus.FINISHED
    assert any(f"rotate {approved.id} to v2 finished" in each for each in overview(dagster.world.pipeline).attention)
    (evidence,) = requests(dagster)
    assert evidence.job_name == "evidence"
    dagster.run(evidence)
    assert "no rotation is open" in skipped(dagster)
    attempts = []
    for _ in range(3):
        dagster.world.clock.at = datetime.now(UTC) + timedelta(hours=1)
        if isinstance(result := dagster.tick(), dg.SensorResult):
            (again,) = result.run_requests or ()
            attempts.append(again.tags["keyrotation/attempt"])
            failed = {**again.tags, "dagster/sensor_name": "rotation_conductor"}
            dagster.instance.add_run(dg.DagsterRun("backup", tags=failed, status=dg.DagsterRunStatus.FAILURE))
    assert attempts == ["2", "3"]


def test_a_backup_elsewhere_is_waited_for(dagster: Dagster, approved: Walk) -> None:
    finished_in_dagster(dagster)
    with dagster.world.ledger.lock("backup"):
        assert "waiting for a backup" in skipped(dagster)
    assert [request.job_name for request in requests(dagster)] == ["backup"]


def test_a_backup_whose_process_is_gone_is_no_longer_waited_for(dagster: Dagster, approved: Walk) -> None:
    finished_in_dagster(dagster)
    (wanted,) = requests(dagster)
    tags = {**wanted.tags, **TRUE_TAGS}
    dagster.instance.add_run(dg.DagsterRun("backup", tags=tags, status=dg.DagsterRunStatus.STARTED))
    dagster.world.clock.at = datetime.now(UTC) + timedelta(minutes=10)
    with dagster.world.ledger.lock("backup"):
        assert skipped(dagster) == "in progress: backup"
    assert skipped(dagster) == "in progress: backup"
    assert [request.job_name for request in requests(dagster)] == ["evidence"]


def test_a_request_that_waits_for_signatures_keeps_no_backup_waiting(dagster: Dagster, approved: Walk) -> None:
    finished_in_dagster(dagster)
    open_request(dagster.world.pipeline, reason="once more", requested_by="test")
    (wanted,) = requests(dagster)
    assert wanted.job_name == "backup"
    assert dagster.run(wanted).success
    assert "waiting for" in skipped(dagster)
