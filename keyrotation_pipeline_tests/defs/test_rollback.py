"""The conductor takes a rotation back by the same assets, under a partition of the rollback's own."""

from collections.abc import Callable

import dagster as dg

from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import RequestStatus, Step, Walk
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.rotation import rollback
from keyrotation_pipeline_tests.defs.conftest import Dagster
from keyrotation_pipeline_tests.fakes import V1, V2

Walked = Callable[[Step | None], Walk]


def test_ticks_carry_a_signed_rollback_to_its_end(dagster: Dagster, walked: Walked) -> None:
    world, rotation = dagster.world, walked(Step.ROWS)
    undoing = rollback.open_rollback(world.pipeline, rotation, reason="slow", requested_by="test")
    waiting = dagster.tick()
    assert isinstance(waiting, dg.SkipReason)
    assert f"rotation {rotation.id} is paused" in str(waiting.skip_message)

    for officer in world.signatures.configured.officers:
        text = world.ledger.approval_text(undoing.id)
        add_approval(world.pipeline, undoing, world.signatures.sign(officer.fingerprint, text))
    jobs = []
    while isinstance(result := dagster.tick(), dg.SensorResult):
        wanted = list(result.run_requests or ())
        jobs.append([each.job_name for each in wanted])
        assert all(dagster.run(each).success for each in wanted)

    assert jobs == [["introduce_key"], ["reencrypt_rows"] * 2, ["retire_key"], ["backup"], ["evidence"]]
    assert world.ledger.walk(undoing.id).status is RequestStatus.FINISHED
    assert (world.keys.primary(), world.keys.archived()) == (V1, (V2,))
    assert {version: key.state for version, key in world.ledger.state.keys.items()} == {
        V1: KeyState.ACTIVE,
        V2: KeyState.ARCHIVED,
    }
    shown = set(dagster.instance.get_materialized_partitions(dg.AssetKey(["rows", "clients"])))
    assert shown == {"v1-back-from-v2|00", "v1-back-from-v2|01"}
