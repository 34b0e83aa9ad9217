"""Sensors over incidents: flags are taken, and people are told."""

from collections.abc import Iterator, Sequence

import dagster as dg

from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.ours import Ours
from keyrotation_pipeline.defs.refusals import sentence_of
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.defs.under_way import is_failure
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.incidents.alert_delivery import Channels, deliver
from keyrotation_pipeline.incidents.flag_intake import poll_flags
from keyrotation_pipeline.incidents.notices import duty_of_the_quarter, notices
from keyrotation_pipeline.model.requests import Announcement
from keyrotation_pipeline.monitoring.announcement import announcements
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.pipeline import Pipeline

SECONDS_BETWEEN_LOOKS = 10
SECONDS_BETWEEN_DELIVERIES = 20


def incident_flag_sensor(naming: Naming) -> dg.SensorDefinition:
    """The sensor `incident_flag`."""

    @dg.sensor(
        name=naming.name("incident_flag"),
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def incident_flag(context: dg.SensorEvaluationContext, keyrotation: PipelineParameter) -> dg.SkipReason:
        """Takes each flag once, opens the incident, and prepares the emergency request that two officers sign."""
        keyrotation.record_heartbeat("incident_flag", context)
        try:
            with keyrotation.open("dagster incident_flag") as opened:
                return dg.SkipReason(str(poll_flags(opened, keyrotation.flag_sources(), "dagster incident_flag")))
        except Exception as error:  # noqa: BLE001  a tick is stored: no text but our own sentences
            return dg.SkipReason(sentence_of(error))

    return incident_flag


def alert_delivery_sensor(naming: Naming, ours: Ours) -> dg.SensorDefinition:
    """The sensor `alert_delivery`."""

    @dg.sensor(
        name=naming.name("alert_delivery"),
        minimum_interval_seconds=SECONDS_BETWEEN_DELIVERIES,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def alert_delivery(context: dg.SensorEvaluationContext, keyrotation: PipelineParameter) -> dg.SkipReason:
        """Tells people what is news, each piece once by each channel; one that is down is told of in `status`."""
        keyrotation.record_heartbeat("alert_delivery", context)
        try:
            channels = keyrotation.channels()
            failed = list(_failed_checks(context, ours))
            with keyrotation.open("dagster alert_delivery") as opened:
                with opened.ledger.reading():
                    announced = _announced(opened, channels)
                    news = notices(opened, channels.contacts, _attention(opened), failed, announced)
                    duty = duty_of_the_quarter(opened)
                failures = deliver(opened, channels, (*news, duty))
            return dg.SkipReason("; ".join(failures) or "everybody is told")
        except Exception as error:  # noqa: BLE001  as above
            return dg.SkipReason(sentence_of(error))

    return alert_delivery


def _attention(pipeline: Pipeline) -> Sequence[str]:
    """What `status` says; where it fails, why: that must not keep people from being told of incidents."""
    try:
        return overview(pipeline, urgent_too=False).attention
    except KeyRotationError as error:
        return (str(error),)


def _announced(pipeline: Pipeline, channels: Channels) -> Sequence[Announcement]:
    """Announcements of planned rotations; where they cannot be made, `status` says why, and incidents come first."""
    try:
        return list(announcements(pipeline, channels.contacts, channels.time_zone))
    except KeyRotationError:
        return ()


def _failed_checks(context: dg.SensorEvaluationContext, ours: Ours) -> Iterator[tuple[str, str]]:
    """Each of our checks whose last evaluation failed, by name, with its sentence."""
    latest = context.instance.event_log_storage.get_latest_asset_check_execution_by_key(sorted(ours.checks))
    for key, record in latest.items():
        evaluation = record.event.asset_check_evaluation if record.event is not None else None
        if evaluation is not None and is_failure(evaluation):
            yield f"{key.asset_key.to_user_string()}/{key.name}", evaluation.description or "see it in Dagster's UI"
