"""A manual rotation, as the UI launches it: the conductor starts none of it, and each click in order is a step."""

import dagster as dg
import pytest

from keyrotation_pipeline.model.requests import RequestStatus, Step, Walk
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.defs.conftest import Dagster, failure_of, sentences, shard_of
from keyrotation_pipeline_tests.fakes import V1, V2

BEFORE_ROWS = ("key_version", "dual_key_rollout", "primary_key_rollout")
TABLES = ("clients", "billing.Invoices")
AFTER_ROWS = ("zero_old_rows_proof", "retired_key", "archived_key", "key_rotation_audit", "compliance_report")


@pytest.fixture
def manual(dagster: Dagster) -> Walk:
    """Approved, and not begun."""
    world = dagster.world
    opened = open_request(world.pipeline, reason="yearly", requested_by="test", manual=True)
    text = world.ledger.approval_text(opened.id)
    for officer in world.signatures.configured.officers:
        add_approval(world.pipeline, world.ledger.walk(opened.id), world.signatures.sign(officer.fingerprint, text))
    return world.ledger.walk(opened.id)


def conductor_says(dagster: Dagster) -> str:
    """What it says; it must start nothing."""
    result = dagster.tick()
    assert isinstance(result, dg.SkipReason), result
    return str(result.skip_message)


def left(due: str, walk: Walk) -> str:
    return (
        f"left to people: somebody is to materialize {due} (partition v2) in Dagster; do that there, or run "
        f"`keyrotation rotate {walk.id}`"
    )


def test_people_materialize_every_asset_and_the_conductor_none(dagster: Dagster, manual: Walk) -> None:
    for asset in BEFORE_ROWS:
        assert conductor_says(dagster) == left(asset, manual)
        assert dagster.materialize(asset, partition="v2").success
    assert conductor_says(dagster) == left("rows/clients, rows/billing.Invoices", manual)
    for table in TABLES:
        for shard in range(2):
            assert dagster.materialize("rows", table, partition=shard_of("v2", shard)).success
    for asset in AFTER_ROWS:
        assert conductor_says(dagster) == left(asset, manual)
        assert dagster.materialize(asset, partition="v2").success

    assert dagster.world.ledger.walk(manual.id).status is RequestStatus.FINISHED
    assert (dagster.world.keys.versions(), dagster.world.keys.archived()) == ((V2,), (V1,))
    cells = [cell for rows in dagster.world.database.rows.values() for row in rows for cell in row.values()]
    assert all(cell in {None, ""} or str(cell).startswith("v2:") for cell in cells)
    assert dagster.conduct() == ["backup"], "which comes before the evidence"


def test_a_whole_group_materialized_at_once_runs_in_order(dagster: Dagster, manual: Walk) -> None:
    dagster.tick("ledger_mirror")
    assert materialized_together(dagster, BEFORE_ROWS).success
    assert dagster.world.keys.primary() == V2
    # Without the rows nothing of the second group is done, and the first step of it says why.
    assert "zero_old_rows_proof is not due" in failure_of(materialized_together(dagster, AFTER_ROWS))
    assert dagster.world.keys.versions() == (V1, V2)


def materialized_together(dagster: Dagster, assets: tuple[str, ...]) -> dg.ExecuteInProcessResult:
    return dagster.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=dagster.instance,
        partition_key="v2",
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        raise_on_error=False,
    )


def test_the_page_says_to_materialize_the_next_asset(dagster: Dagster, manual: Walk) -> None:
    result = dagster.materialize("key_version", partition="v2")
    [event] = result.get_asset_materialization_events()
    said = sentences(event.materialization.metadata["next"])
    assert said == (
        "[dual_key_rollout](/assets/dual_key_rollout): materialize it, partition v2. The conductor leaves this "
        "rotation to people."
    )


def test_a_look_shows_on_the_page_of_the_step_that_it_is_left_to_people(dagster: Dagster, manual: Walk) -> None:
    conductor_says(dagster)
    [observed] = dagster.instance.fetch_observations(dg.AssetKey(str(Step.KEY_VERSION)), limit=1).records
    assert observed.asset_observation is not None
    assert observed.asset_observation.description == left("key_version", manual)
