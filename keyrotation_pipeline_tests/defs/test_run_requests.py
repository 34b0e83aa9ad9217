"""Which runs the conductor starts, as a table: none twice at a time, and after a failure not at once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from keyrotation_pipeline.defs.partitions import OWN
from keyrotation_pipeline.defs.run_requests import ConductorRun, plan_runs
from keyrotation_pipeline.model.requests import RotationType, Step
from keyrotation_pipeline.model.tables import Shard
from keyrotation_pipeline.requests.conductor import Task
from keyrotation_pipeline_tests.fakes import CLIENTS, fake_pipeline, rotation_of

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
ROTATION = rotation_of(fake_pipeline())
PROOF = Task(Step.ZERO_OLD_ROWS_PROOF)
SHARDS = tuple(Task(Step.ROWS, Shard(CLIENTS, index, 3)) for index in range(3))
FIRST, SECOND, THIRD = (f"reencrypt_rows/{number}" for number in (1, 2, 3))


def ago(**passed: int) -> datetime:
    return NOW - timedelta(**passed)


@pytest.mark.parametrize(
    ("tasks", "past", "started"),
    [
        pytest.param((PROOF,), [], ["retire_key/1"], id="first attempt at once"),
        pytest.param((PROOF,), [("retire_key", 1, None)], [], id="not while one is in progress"),
        pytest.param((PROOF,), [("retire_key", 1, ago(seconds=50))], [], id="not within a minute of a failure"),
        pytest.param((PROOF,), [("retire_key", 1, ago(seconds=60))], ["retire_key/2"], id="again after a minute"),
        pytest.param(
            (PROOF,), [("retire_key", 1, ago(minutes=9)), ("retire_key", 2, None)], [], id="the newest attempt counts"
        ),
        pytest.param((PROOF,), [("retire_key", 10, ago(minutes=9))], [], id="after ten not within ten minutes"),
        pytest.param((PROOF,), [("retire_key", 10, ago(minutes=10))], ["retire_key/11"], id="but after ten minutes"),
        pytest.param((PROOF,), [("introduce_key", 3, ago(seconds=1))], ["retire_key/1"], id="other legs do not count"),
        pytest.param(SHARDS, [], [f"{FIRST}/1", f"{SECOND}/1"], id="two take shards, side by side"),
        pytest.param(SHARDS[:1], [], [f"{FIRST}/1"], id="one for the last shard"),
        pytest.param(SHARDS[:1], [(SECOND, 1, None)], [], id="none next to the one that has the last shard"),
        pytest.param(SHARDS, [(FIRST, 1, ago(seconds=5)), (SECOND, 1, None)], [], id="after a failure not at once"),
        pytest.param(SHARDS, [(FIRST, 1, ago(seconds=5))], [f"{SECOND}/1"], id="a failure delays no other one"),
        pytest.param(
            SHARDS, [(FIRST, 1, ago(seconds=5)), (SECOND, 3, ago(seconds=65))], [f"{SECOND}/4"],
            id="nor one that has paused itself",
        ),
        pytest.param(SHARDS[:1], [(FIRST, 1, ago(seconds=5))], [], id="the last shard is not retried by another one"),
        pytest.param(
            SHARDS, [(FIRST, 1, ago(seconds=65)), (SECOND, 1, None)], [f"{FIRST}/2"], id="but a minute later"
        ),
        pytest.param((Task(Step.ROWS),), [], ["retire_key/1"], id="closing the rows begins the last leg"),
    ],
)  # fmt: skip
def test_runs_are_planned(
    tasks: tuple[Task, ...], past: list[tuple[str, int, datetime | None]], started: list[str]
) -> None:
    chosen = plan_runs(OWN, ROTATION, tasks, [ConductorRun(*each) for each in past], NOW, 2)

    assert [str(request.run_key).rpartition("/")[0] for request in chosen.requests] == [
        f"{ROTATION.id}/{each}" for each in started
    ]


@pytest.mark.parametrize(
    ("task", "job", "assets", "partition"),
    [
        pytest.param(
            Task(Step.KEY_VERSION),
            "introduce_key",
            ["key_version", "dual_key_rollout", "primary_key_rollout"],
            "v2",
            id="from the start",
        ),
        pytest.param(
            Task(Step.PRIMARY_KEY_ROLLOUT), "introduce_key", ["primary_key_rollout"], "v2", id="taken up in a leg"
        ),
        pytest.param(
            Task(Step.ARCHIVED_KEY),
            "retire_key",
            ["archived_key", "key_rotation_audit", "compliance_report"],
            "v2",
            id="after retirement",
        ),
    ],
)
def test_a_run_goes_from_the_due_step_to_the_end_of_its_leg(
    task: Task, job: str, assets: list[str], partition: str
) -> None:
    [request] = plan_runs(OWN, ROTATION, (task,), [], NOW, 2).requests

    assert request.job_name == job
    assert [key.to_user_string() for key in request.asset_selection or ()] == assets
    assert request.partition_key == partition


def test_what_waits_says_until_when() -> None:
    chosen = plan_runs(OWN, ROTATION, (PROOF,), [ConductorRun("retire_key", 1, ago(seconds=20))], NOW, 2)

    assert chosen.next_try_at == NOW + timedelta(seconds=40)


@pytest.mark.parametrize(("kind", "declared", "runs"), [("routine", 3, 3), ("emergency", 2, 4), ("emergency", 9, 9)])
def test_an_emergency_takes_at_least_four_shards_at_a_time(kind: str, declared: int, runs: int) -> None:
    shards = tuple(Task(Step.ROWS, Shard(CLIENTS, index, 50)) for index in range(50))
    wanted = plan_runs(OWN, replace(ROTATION, type=RotationType(kind)), shards, [], NOW, declared).requests

    assert [(each.job_name, each.tags["keyrotation/mode"]) for each in wanted] == [("reencrypt_rows", kind)] * runs
    assert {each.tags["dagster/max_runtime"] for each in wanted} == {"604800"}, "rows of a week are not cut off"


@pytest.mark.parametrize("task", [PROOF, SHARDS[0], Task(Step.KEY_VERSION)])
def test_the_queue_takes_the_runs_of_an_emergency_before_those_that_wait(task: Task) -> None:
    for kind, priority in ((RotationType.EMERGENCY, "10"), (RotationType.ROUTINE, None)):
        [request] = plan_runs(OWN, replace(ROTATION, type=kind), (task,), [], NOW, 1).requests
        assert request.tags.get("dagster/priority") == priority
