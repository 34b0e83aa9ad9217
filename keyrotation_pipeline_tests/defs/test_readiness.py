"""The asset `rotation_readiness` shows what `keyrotation preflight` says."""

import dagster as dg

from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline_tests.defs.conftest import Dagster, sentences


def test_the_asset_shows_every_check_with_its_light(dagster: Dagster) -> None:
    dagster.world.database.problems = (Problem("a trigger fires; drop it", fatal=True, check="triggers_stay_quiet"),)
    job = dagster.definitions.resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(instance=dagster.instance, asset_selection=[dg.AssetKey("rotation_readiness")])

    [shown] = done.asset_materializations_for_node("rotation_readiness")
    assert shown.metadata["ready"].value is False
    assert "a trigger fires. drop it" in sentences(shown.metadata["summary"])
    table = shown.metadata["checks"]
    assert isinstance(table, dg.TableMetadataValue)
    lights = {str(record.data["check"]): record.data["light"] for record in table.records}
    assert lights["triggers_stay_quiet"] == "red"
    assert lights["roster_is_the_pinned_one"] == "green"
