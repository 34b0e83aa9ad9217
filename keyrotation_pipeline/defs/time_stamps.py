"""Time stamps that are still missing: asked for until the authority gives them."""

import dagster as dg

from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.refusals import sentence_of
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.requests.time_stamping import stamp_if_due

SECONDS_BETWEEN_ATTEMPTS = 60


def audit_timestamp_sensor(naming: Naming) -> dg.SensorDefinition:
    """The sensor `audit_timestamp`."""

    @dg.sensor(
        name=naming.name("audit_timestamp"),
        minimum_interval_seconds=SECONDS_BETWEEN_ATTEMPTS,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def audit_timestamp(context: dg.SensorEvaluationContext, keyrotation: PipelineParameter) -> dg.SkipReason:
        """Has the audit time-stamped where a request has ended since the last time; what fails is told in `status`."""
        keyrotation.record_heartbeat("audit_timestamp", context)
        try:
            with keyrotation.open("dagster audit_timestamp") as opened:
                return dg.SkipReason(stamp_if_due(opened) or "nothing waits for a time stamp")
        except Exception as error:  # noqa: BLE001  a tick is stored: no text but our own sentences
            return dg.SkipReason(sentence_of(error))

    return audit_timestamp
