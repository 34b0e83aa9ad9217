"""Whether Dagster looks after things: its daemon, its sensors and schedules, as far as their last looks tell."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from keyrotation_pipeline.model.ticks import Tick

# A sensor looks every few seconds; a busy machine or a restart takes longer.
SILENT_AFTER = timedelta(minutes=2)
SENSORS = ("rotation_conductor", "ledger_mirror", "incident_flag", "alert_delivery", "audit_timestamp")
# One period each, and some hours: a day can have 25 of them, and a late look is still one.
SCHEDULES = {
    "daily_key_backup": timedelta(days=1, hours=3),
    "rotation_calendar": timedelta(days=1, hours=3),
    "rolling_decrypt": timedelta(hours=3),
    "quarterly_recovery_test": timedelta(days=93),
    "nightly_rehearsal": timedelta(days=1, hours=3),
}
# All that can be switched off in Dagster; the last looks only when a run has failed.
AUTOMATION = (*SENSORS, *SCHEDULES, "run_failure_alert")
# There only where the configuration asks for them.
OPTIONAL = frozenset({"audit_timestamp", "nightly_rehearsal"})
SILENCE = {**dict.fromkeys(SENSORS, SILENT_AFTER), **SCHEDULES}


def standing_still(ticks: Sequence[Tick], now: datetime) -> Iterator[str]:
    """A sentence for each thing that does not run, and since when.

    Only what looked into this home is seen: where Dagster never ran nothing is missing, and a Dagster that keeps its
    home on another machine leaves no trace here. While no sensor looks, nobody sees which sensors and schedules are
    switched off.
    """
    newest = max((tick.at for tick in ticks if tick.name not in SCHEDULES), default=now)
    if now - newest > SILENT_AFTER:
        yield (
            f"neither Dagster's daemon nor its sensors have run here since {_clock(newest)}, so no rotation moves by "
            "itself and nothing is scheduled; run `keyrotation up`"
        )
        return
    fresh = sorted((tick for tick in ticks if now - tick.at <= SILENT_AFTER), key=lambda tick: tick.at)
    stopped = {name: since for tick in fresh for name, since in tick.stopped.items()}
    for name, since in sorted(stopped.items()):
        yield f"{name} is switched off in Dagster since {_clock(since)}; switch it on under Automation in its UI"
    for tick in ticks:
        if tick.name not in stopped and now - tick.at > SILENCE.get(tick.name, now - tick.at):
            yield (
                f"{tick.name} has not looked since {_clock(tick.at)}, while Dagster runs; see its ticks under "
                "Automation in Dagster's UI"
            )


def _clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
