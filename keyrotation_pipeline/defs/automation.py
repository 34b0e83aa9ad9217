"""That Dagster itself looks after things: noted by its sensors, shown as a check."""

import dagster as dg

from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.performing import actor_of
from keyrotation_pipeline.defs.refusals import refusals
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.monitoring.scheduler_health import standing_still


def sensors_and_schedules_run_check(naming: Naming) -> dg.AssetChecksDefinition:
    """The check `sensors_and_schedules_run`."""

    @dg.asset_check(asset=naming.asset("encrypted_columns"))
    def sensors_and_schedules_run(
        context: dg.AssetCheckExecutionContext, keyrotation: PipelineParameter
    ) -> dg.AssetCheckResult:
        """The daemon, the conductor and every schedule run; `keyrotation status` says the same without Dagster."""
        with refusals(), keyrotation.open(actor_of(context)) as opened:
            sentences = list(standing_still(opened.heartbeats.last(), opened.clock.now()))
        return dg.AssetCheckResult(
            passed=not sentences,
            description="; ".join(sentences)
            or "the sensors that look into this home do so, and nothing is switched off",
            metadata={"standing_still": len(sentences)},
        )

    return sensors_and_schedules_run
