"""When applications failed to decrypt more values than may be chance.

Source: the seed procedure's alarm on decryption failures: more than 10 within a minute.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keyrotation_pipeline.model.instances import Instance

MOST_PER_MINUTE = 10
TOLD_FOR = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class FailingMinute:
    """One minute in which all instances together failed too often."""

    at: datetime
    values: int
    versions: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"applications could not decrypt {self.values:,} value(s) within a minute ({self.at:%Y-%m-%d %H:%M} UTC, "
            f"under {', '.join(self.versions)}), and more than {MOST_PER_MINUTE} are no chance; `keyrotation rollout` "
            "shows which instances, and `keyrotation verify` whether the values or the instances' keys are wrong"
        )


def failing_minutes(instances: Iterable[Instance], now: datetime) -> tuple[FailingMinute, ...]:
    """The minutes of the last day with too many failures, in order of time."""
    values, versions = Counter[datetime](), defaultdict[datetime, set[str]](set)
    for failed in (each for instance in instances for each in instance.failed):
        for minute, number in failed.minutes.items():
            if now - minute < TOLD_FOR:
                values[minute] += number
                versions[minute].add(failed.version)
    over = (minute for minute in sorted(values) if values[minute] > MOST_PER_MINUTE)
    return tuple(FailingMinute(each.astimezone(UTC), values[each], tuple(sorted(versions[each]))) for each in over)
