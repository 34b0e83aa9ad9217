"""The sensors, a row each, and those of them that take in incident flags and deliver alerts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import dagster as dg

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.defs import conductor, ledger_sync
from keyrotation_pipeline.defs.checks import is_failure
from keyrotation_pipeline.defs.outside_reports import Seal
from keyrotation_pipeline.defs.partitions import Naming, Ownership
from keyrotation_pipeline.defs.resources import PipelineParameter, PipelineResource
from keyrotation_pipeline.defs.run_failures import causes, run_failure_alert_sensor
from keyrotation_pipeline.defs.schedules import CONDUCTED, INCIDENTS, Job
from keyrotation_pipeline.defs.status_page import renew, status_metadata, status_now, unknown_metadata
from keyrotation_pipeline.defs.step_runner import message_of
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.incidents.alerts import Channels, deliver, duty_of_the_quarter, notices
from keyrotation_pipeline.incidents.opening import poll_flags
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.requests import Announcement
from keyrotation_pipeline.monitoring.announcement import announcements
from keyrotation_pipeline.monitoring.members import TICK_SECONDS, ask_due
from keyrotation_pipeline.monitoring.scheduler_health import CONDUCTOR
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.time_stamping import stamp_if_due
from keyrotation_pipeline.requests.witnessing import witness_if_due

Outcome = dg.SensorResult | dg.SkipReason


class Sensor(NamedTuple):
    """A sensor as Dagster shows it, without the prefix.

    Args:
        seconds: between two ticks; the daemon evaluates sensors every 5 seconds.
        jobs: those that it may launch.
    """

    name: str
    seconds: int
    description: str
    tick: Callable[[dg.SensorEvaluationContext, PipelineResource], Outcome]
    jobs: Sequence[Job] | None = None


def sensors(
    naming: Naming,
    jobs: Mapping[str, Job],
    ownership: Ownership,
    time_zone: str,
    *,
    timestamps: bool,
    witnesses: bool,
    members: bool,
) -> Iterator[dg.SensorDefinition]:
    """Every sensor; those of time stamps, witnesses and members of a fleet only if any are configured."""
    conducted = [jobs[name] for name in CONDUCTED if name in jobs]
    yield build_sensor(naming, Sensor(
        # With 5 seconds the daemon would skip every other tick.
        CONDUCTOR, 2,
        "Carries an approved rotation through its steps. One requested with `--manual` is left to people.",
        partial(conductor.evaluate, time_zone=time_zone),
        conducted,
    ))  # fmt: skip
    yield build_sensor(naming, Sensor(
        # At every other tick of the daemon: nothing waits for what it shows.
        "ledger_mirror", 8,
        "Shows steps and backups made outside Dagster, keeps one partition for each rotation in the ledger, and "
        "corrects results that no run has reported.",
        partial(ledger_sync.evaluate, ownership=ownership, time_zone=time_zone),
    ))  # fmt: skip
    yield run_failure_alert_sensor(naming, ownership)
    yield build_sensor(naming, INCIDENT_FLAG._replace(jobs=[jobs[INCIDENTS]]))
    yield build_sensor(naming, Sensor(
        "alert_delivery", 20,
        "Delivers each alert once through each channel. It renews the page of the asset `status`, which names a "
        "channel that is down.",
        partial(_deliver_alerts, ownership=ownership),
    ))  # fmt: skip
    if members:
        yield build_sensor(naming, Sensor(
            "member_check", 30,
            "Asks each member of a fleet every 15 minutes, one after the other, for what `status` shows of it. No "
            "other sensor asks members.",
            _ask_members,
        ))  # fmt: skip
    if timestamps:
        yield build_sensor(naming, Sensor(
            "audit_timestamp", 60,
            "Has the audit time-stamped after each request that ended. It retries until the authority answers.",
            _stamp,
        ))  # fmt: skip
    if witnesses:
        yield build_sensor(naming, Sensor(
            "audit_witness", 60,
            "Has witnesses sign the audit after each request, backup and recovery test and once a day, and retries "
            "until they answer.",
            _witness,
        ))  # fmt: skip


def build_sensor(naming: Naming, row: Sensor) -> dg.SensorDefinition:
    """The sensor of a row, switched on; a failure is the reason of a skipped tick."""

    @dg.sensor(
        name=naming.name(row.name),
        jobs=row.jobs,
        minimum_interval_seconds=row.seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=row.description,
    )
    def sensor(context: dg.SensorEvaluationContext, keyrotation: PipelineParameter) -> Outcome:
        keyrotation.record_heartbeat(row.name, context)
        try:
            keyrotation.keep_server()
            return row.tick(context, keyrotation)
        except Exception as error:  # noqa: BLE001  a tick is stored: only our own messages may be
            return dg.SkipReason(message_of(error))

    return sensor


def _take_flags(context: dg.SensorEvaluationContext, keyrotation: PipelineResource) -> Outcome:
    """Takes in the flags; at the next tick, if the report of an incident has changed, its pages are written again."""
    with keyrotation.open("dagster incident_flag") as opened:
        taken = poll_flags(opened, keyrotation.flag_sources(), "dagster incident_flag")
        if taken.taken:
            return dg.SkipReason(str(taken))
        seal = Seal(keyrotation.signer())
        # Anybody who reaches the UI can set a cursor: one without our seal counts as none.
        before = int(seal.cursor_in(context.cursor, INCIDENT_FLAG.name) or 0)
        changed = [each.seq for each in entries(opened.ledger, EventKind.REPORT_KEPT, after_seq=before)]
    if not changed:
        return dg.SkipReason(str(taken))
    cursor = seal.on_cursor(str(changed[-1]), INCIDENT_FLAG.name)
    # Without a key: Dagster skips a request whose key it finds on any run, forged ones among them.
    return dg.SensorResult([dg.RunRequest()], cursor=cursor)


def _ask_members(_context: dg.SensorEvaluationContext, keyrotation: PipelineResource) -> Outcome:
    with keyrotation.open("dagster member_check") as opened:
        return dg.SkipReason(str(ask_due(opened, seconds=TICK_SECONDS)))


def _stamp(_context: dg.SensorEvaluationContext, keyrotation: PipelineResource) -> Outcome:
    with keyrotation.open("dagster audit_timestamp") as opened:
        return dg.SkipReason(stamp_if_due(opened) or "no time stamp is due")


def _witness(_context: dg.SensorEvaluationContext, keyrotation: PipelineResource) -> Outcome:
    with keyrotation.open("dagster audit_witness") as opened:
        return dg.SkipReason("; ".join(witness_if_due(opened)) or "nothing is to be witnessed")


def _deliver_alerts(
    context: dg.SensorEvaluationContext, keyrotation: PipelineResource, ownership: Ownership
) -> Outcome:
    failed = list(_failed_checks(context, ownership))
    seal = Seal(keyrotation.signer())
    try:
        with keyrotation.open("dagster alert_delivery") as opened:
            channels = keyrotation.channels(opened)
            with opened.ledger.reading():
                announced = _announced(opened, channels)
                attention, page = _status(opened, keyrotation.naming)
                news = notices(opened, channels.contacts, attention, failed, announced, causes(context.instance))
                duty = duty_of_the_quarter(opened)
            failures = deliver(opened, channels, (*news, duty))
            with suppress(KeyRotationError):  # a cluster that does not answer: alerts do not depend on it
                opened.rollout.forget()
    except KeyRotationError as error:
        # What it said before may no longer be true.
        renew(context.instance, keyrotation.naming, unknown_metadata(error), seal)
        raise
    renew(context.instance, keyrotation.naming, page, seal)
    return dg.SkipReason("; ".join(failures) or "every alert is delivered")


def _status(pipeline: Pipeline, naming: Naming) -> tuple[Sequence[str], Mapping[str, dg.MetadataValue]]:
    """What `status` says that has no alert of its own, and its page; if it fails, why: alerts must not depend on it."""
    try:
        found = status_now(pipeline)
    except KeyRotationError as error:
        return (str(error),), unknown_metadata(error)
    return [each for each in found.attention if each not in found.alerted], status_metadata(found, naming)


def _announced(pipeline: Pipeline, channels: Channels) -> Sequence[Announcement]:
    """Announcements of planned rotations; none if they cannot be made: `status` says why, and incidents come first."""
    try:
        return list(announcements(pipeline, channels.contacts, channels.time_zone))
    except KeyRotationError:
        return ()


def _failed_checks(context: dg.SensorEvaluationContext, ownership: Ownership) -> Iterator[tuple[str, str]]:
    """Each check of the pipeline whose last evaluation failed, with its description."""
    latest = context.instance.event_log_storage.get_latest_asset_check_execution_by_key(sorted(ownership.checks))
    for key, record in latest.items():
        evaluation = record.event.asset_check_evaluation if record.event is not None else None
        if evaluation is not None and is_failure(evaluation):
            yield f"{key.asset_key.to_user_string()}/{key.name}", evaluation.description or "see it in Dagster's UI"


INCIDENT_FLAG = Sensor(
    "incident_flag",
    10,
    "Takes in each flag once, opens the incident, and prepares the emergency request that two officers sign; renews "
    "the pages of incidents after each change.",
    _take_flags,
)
