"""Whether Dagster's daemon, sensors and schedules run, by their heartbeats."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from keyrotation_pipeline.model.audit import utc_minute
from keyrotation_pipeline.model.status import Heartbeat

# A sensor ticks every few seconds; a busy machine or a restart takes longer.
SILENT_AFTER = timedelta(minutes=2)
CONDUCTOR = "rotation_conductor"
# Heartbeats further apart than that do not show that it is still running.
AT_WORK_FOR = timedelta(minutes=1)
SENSORS = (
    CONDUCTOR, "ledger_mirror", "incident_flag", "alert_delivery", "member_check", "audit_timestamp", "audit_witness",
)  # fmt: skip
# One period each, and some hours: a day can have 25 of them, and a late heartbeat still counts.
SCHEDULES = {
    "daily_key_backup": timedelta(days=1, hours=3),
    "rotation_calendar": timedelta(days=1, hours=3),
    "rolling_decrypt": timedelta(hours=3),
    "weekly_readiness": timedelta(days=7, hours=3),
    "quarterly_recovery_test": timedelta(days=93),
    "nightly_rehearsal": timedelta(days=1, hours=3),
}
# Everything that can be switched off in Dagster; the last one ticks only when a run has failed.
AUTOMATION = (*SENSORS, *SCHEDULES, "run_failure_alert")
# There only where the configuration asks for them.
OPTIONAL = frozenset({"member_check", "audit_timestamp", "audit_witness", "nightly_rehearsal"})
SILENCE = {**dict.fromkeys(SENSORS, SILENT_AFTER), **SCHEDULES}


def stalled(heartbeats: Sequence[Heartbeat], now: datetime) -> Iterator[str]:
    """A sentence for each daemon, sensor or schedule that does not run, and since when.

    Only heartbeats in this home are seen: where Dagster never ran nothing is missing, and a Dagster with its home on
    another machine leaves no trace here. While no sensor runs, it is not known which sensors and schedules are
    switched off.
    """
    newest = max((heartbeat.at for heartbeat in heartbeats if heartbeat.name not in SCHEDULES), default=now)
    if now - newest > SILENT_AFTER:
        yield (
            f"neither Dagster's daemon nor its sensors have run here since {utc_minute(newest)}, so no rotation moves "
            "by itself and nothing is scheduled; run `keyrotation up`"
        )
        return
    stopped = _switched_off(heartbeats)
    for name, since in sorted(stopped.items()):
        yield f"{name} is switched off in Dagster since {utc_minute(since)}; switch it on under Automation in its UI"
    for heartbeat in heartbeats:
        if heartbeat.name not in stopped and now - heartbeat.at > SILENCE.get(heartbeat.name, now - heartbeat.at):
            yield (
                f"{heartbeat.name} has not run since {utc_minute(heartbeat.at)}, while Dagster runs; "
                "see its ticks under Automation in Dagster's UI"
            )


def conductor_at_work(heartbeats: Sequence[Heartbeat], now: datetime) -> Heartbeat | None:
    """The conductor's last heartbeat, if that shows that it runs rotations now; else None.

    A heartbeat is no longer evidence once another sensor has found the conductor switched off, or after a minute.
    """
    look = next((heartbeat for heartbeat in heartbeats if heartbeat.name == CONDUCTOR), None)
    if look is None or now - look.at > AT_WORK_FOR or CONDUCTOR in _switched_off(heartbeats):
        return None
    return look


def _switched_off(heartbeats: Iterable[Heartbeat]) -> Mapping[str, datetime]:
    """What the newest heartbeat of a sensor found switched off, each with since when; what has run since then is on.

    Each tick of a sensor sees all of them, so an older one is outdated.
    """
    newest = max(
        (heartbeat for heartbeat in heartbeats if heartbeat.name in SENSORS),
        key=lambda heartbeat: heartbeat.at,
        default=None,
    )
    return newest.stopped if newest is not None else {}
