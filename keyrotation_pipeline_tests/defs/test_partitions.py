"""Which partitions there are is what the ledger says, whatever anybody adds or removes in the UI."""

from collections.abc import Callable

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from keyrotation_pipeline.errors import DatabaseUnavailableError
from keyrotation_pipeline.model.requests import RequestStatus, Step, Walk
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.rotation.rollback import open_rollback
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.defs.conftest import Dagster, failure_of, shard_of
from keyrotation_pipeline_tests.fakes import V1

Walked = Callable[[Step | None], Walk]
RANGE = "dagster/asset_partition_range"
STEPS = [str(step) for step in Step if step is not Step.ROWS]
ROWS = (dg.AssetKey(["rows", "clients"]), dg.AssetKey(["rows", "billing.Invoices"]))


def synced(dagster: Dagster) -> list[str]:
    """The partitions after a look of the sensor."""
    dagster.tick("ledger_mirror")
    return sorted(dagster.instance.get_dynamic_partitions("key_version"))


def missing(dagster: Dagster) -> dict[str, set[str]]:
    """What the graph shows as missing, by asset."""
    there = dagster.instance.get_dynamic_partitions("key_version")
    shards = {f"{each}|{shard:02d}" for each in there for shard in range(2)}
    wanted = {dg.AssetKey(step): set(there) for step in STEPS} | dict.fromkeys(ROWS, shards)
    return {
        key.to_user_string(): lacking
        for key, partitions in wanted.items()
        if (lacking := partitions - dagster.instance.get_materialized_partitions(key))
    }


def test_before_any_request_the_partition_is_that_of_the_active_key(dagster: Dagster) -> None:
    assert synced(dagster) == ["v1"]
    assert len(missing(dagster)) == len(STEPS) + len(ROWS)
    assert "no rotation to v1 was requested" in failure_of(dagster.materialize("key_version", partition="v1"))


def test_a_request_adds_its_target_before_anybody_has_signed(dagster: Dagster, requested: Walk) -> None:
    assert synced(dagster) == ["v2"]


def test_a_cancelled_request_takes_its_partition_with_it(dagster: Dagster, walked: Walked) -> None:
    rotation = walked(Step.DUAL_KEY_ROLLOUT)
    assert synced(dagster) == ["v2"]
    cancel(dagster.world.pipeline, rotation)

    assert synced(dagster) == ["v1"]


def test_after_a_rotation_nothing_is_missing_and_after_the_next_request_exactly_its_partition(
    dagster: Dagster, walked: Walked
) -> None:
    walked(None)
    assert synced(dagster) == ["v2"]
    assert missing(dagster) == {}

    open_request(dagster.world.pipeline, reason="again", requested_by="test")
    assert synced(dagster) == ["v2", "v3"]
    lacking = missing(dagster)
    assert {key: lacking.pop(key) for key in STEPS} == {key: {"v3"} for key in STEPS}
    assert list(lacking.values()) == [{"v3|00", "v3|01"}] * 2


def test_a_rollback_has_a_partition_of_its_own(dagster: Dagster, walked: Walked) -> None:
    rotation = walked(None)
    undoing = open_rollback(dagster.world.pipeline, rotation, reason="slow", requested_by="test")

    assert synced(dagster) == ["v1-back-from-v2", "v2"]
    assert missing(dagster)["compliance_report"] == {"v1-back-from-v2"}
    refused = dagster.materialize("key_version", partition="v1-back-from-v2")
    assert f"rotation {undoing.id} needs 2 more approvals" in failure_of(refused)


def test_a_rotation_that_was_rolled_back_midway_leaves_nothing_missing(dagster: Dagster, walked: Walked) -> None:
    rotation = walked(Step.ROWS)
    undoing = open_rollback(dagster.world.pipeline, rotation, reason="slow", requested_by="test")
    dagster.world.ledger.set_status(rotation.id, RequestStatus.CANCELLED, by=undoing.id)

    assert synced(dagster) == ["v1-back-from-v2"]


@pytest.mark.parametrize("typed", ["v99", "v2 ", "V2", "v02", "v1-back-from-v2", "../v2", "x" * 200, "v2\u202e"])
def test_a_typed_partition_is_refused_and_does_not_stay(dagster: Dagster, approved: Walk, typed: str) -> None:
    before = list(dagster.world.journal.entries)
    dagster.instance.add_dynamic_partitions("key_version", [typed])
    refusals = [failure_of(dagster.materialize(step, partition=typed)) for step in STEPS]
    refusals.append(failure_of(dagster.materialize("rows", "clients", partition=shard_of(typed, 0))))

    assert {each.endswith("was requested; choose the partition v2") for each in refusals} == {True}
    assert max(map(len, refusals)) < 120
    assert "".join(refusals).isprintable()
    assert dagster.world.journal.entries == before
    assert synced(dagster) == ["v2"]


def test_a_removed_partition_comes_back(dagster: Dagster, walked: Walked) -> None:
    walked(None)
    synced(dagster)
    dagster.instance.delete_dynamic_partition("key_version", "v2")

    assert synced(dagster) == ["v2"]
    assert missing(dagster) == {}


@pytest.mark.parametrize("tags", [
    pytest.param({"dagster/partition": "v9"}, id="a step"),
    pytest.param({"dagster/partition": "v9|00", "dagster/partition/key_version": "v9"}, id="a shard"),
])  # fmt: skip
def test_a_partition_stays_while_a_run_for_it_is_unfinished(
    dagster: Dagster, approved: Walk, tags: dict[str, str]
) -> None:
    dagster.instance.add_dynamic_partitions("key_version", ["v9", "v10"])
    run = dg.DagsterRun("__ASSET_JOB", tags=tags, status=dg.DagsterRunStatus.STARTED)
    dagster.instance.add_run(run)

    assert synced(dagster) == ["v2", "v9"]
    dagster.instance.report_run_failed(run)
    assert synced(dagster) == ["v2"]


def test_nothing_is_removed_while_the_ledger_cannot_be_read(
    dagster: Dagster, approved: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced(dagster)

    def fail(*_: object) -> None:
        raise DatabaseUnavailableError("cannot connect to clinic@db; start it")

    monkeypatch.setattr(type(dagster.world.ledger), "requests", fail)
    assert synced(dagster) == ["v2"]


@pytest.mark.parametrize("tags", [
    pytest.param({}, id="no partition"),
    pytest.param({f"{RANGE}_start": "v2", f"{RANGE}_end": "v3"}, id="several"),
])  # fmt: skip
def test_a_run_that_is_not_for_one_partition_is_one_sentence(
    dagster: Dagster, approved: Walk, tags: dict[str, str]
) -> None:
    dagster.instance.add_dynamic_partitions("key_version", ["v2", "v3"])
    result = dagster.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=dagster.instance, asset_selection=[dg.AssetKey("key_version")], tags=tags, raise_on_error=False
    )

    assert failure_of(result) == "this run is not for one partition; launch it again for the one that is missing"
    assert dagster.world.keys.versions() == (V1,)


def test_a_run_whose_partition_was_removed_meanwhile_is_refused_by_its_name(dagster: Dagster, approved: Walk) -> None:
    result = dagster.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=dagster.instance,
        asset_selection=[dg.AssetKey("key_version")],
        tags={"dagster/partition": "v99"},
        raise_on_error=False,
    )

    assert failure_of(result) == "no rotation to v99 was requested; choose the partition v2"


@pytest.mark.parametrize(("asset", "left"), [
    pytest.param(["key_version"], ["v2", "v9"], id="a step"),
    pytest.param(["rows", "clients"], ["v2", "v9"], id="rows"),
    pytest.param(["theirs"], ["v2"], id="an asset of somebody else"),
])  # fmt: skip
def test_a_partition_stays_while_a_backfill_of_the_walk_is_unfinished(
    dagster: Dagster, approved: Walk, asset: list[str], left: list[str]
) -> None:
    dagster.instance.add_dynamic_partitions("key_version", ["v9"])
    backfill = PartitionBackfill(
        "backfill", BulkActionStatus.REQUESTED, from_failure=False, tags={}, backfill_timestamp=0.0,
        asset_selection=[dg.AssetKey(asset)],
    )  # fmt: skip
    dagster.instance.add_backfill(backfill)

    assert synced(dagster) == left
    dagster.instance.update_backfill(backfill._replace(status=BulkActionStatus.COMPLETED_FAILED))
    assert synced(dagster) == ["v2"]


def test_the_partitions_of_others_in_the_instance_are_left_alone(dagster: Dagster, approved: Walk) -> None:
    dagster.instance.add_dynamic_partitions("theirs", ["v99"])
    synced(dagster)

    assert dagster.instance.get_dynamic_partitions("theirs") == ["v99"]
