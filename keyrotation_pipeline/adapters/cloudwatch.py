"""Reads CloudWatch alarms: each change of one into the state ALARM is a flag."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from keyrotation_pipeline.adapters import aws
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.model.incidents import Flag

_CONFIG = Config(connect_timeout=10, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})
# DescribeAlarms accepts so many names at once.
_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class WatchedAlarm:
    """One alarm by its name, and the type of incident that it reports."""

    name: str
    type: str


class CloudWatchAlarms:
    """`FlagSource` over the alarms that the configuration names.

    Args:
        region_name, endpoint_url: as boto3 takes them.
    """

    def __init__(
        self, alarms: Sequence[WatchedAlarm], region_name: str | None = None, endpoint_url: str | None = None
    ) -> None:
        self._types: Mapping[str, str] = {alarm.name: alarm.type for alarm in alarms}
        self._region_name = region_name
        self._endpoint_url = endpoint_url

    def raised(self) -> tuple[Flag, ...]:
        """See `FlagSource.raised`; an alarm that clears and fires again is another flag."""
        try:
            found = [alarm for names in self._pages() for alarm in self._alarms(names)]
        except (ClientError, BotoCoreError, ResponseParserError) as error:
            code = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
            raise IncidentError(
                f"CloudWatch does not report its alarms ({code}); check [incidents] and the right "
                "cloudwatch:DescribeAlarms"
            ) from None
        return tuple(self._flag(alarm) for alarm in sorted(found, key=lambda each: str(each["AlarmName"])))

    def _pages(self) -> list[list[str]]:
        names = list(self._types)
        return [names[first : first + _AT_ONCE] for first in range(0, len(names), _AT_ONCE)]

    def _alarms(self, names: list[str]) -> list[Mapping[str, Any]]:
        client = aws.client(
            "cloudwatch", region_name=self._region_name, endpoint_url=self._endpoint_url, config=_CONFIG
        )
        answer = client.describe_alarms(AlarmNames=names, AlarmTypes=["MetricAlarm", "CompositeAlarm"], MaxRecords=100)
        found: list[Mapping[str, Any]] = [*answer.get("MetricAlarms", []), *answer.get("CompositeAlarms", [])]
        return [each for each in found if each.get("StateValue") == "ALARM" and each.get("AlarmName") in self._types]

    def _flag(self, alarm: Mapping[str, Any]) -> Flag:
        # An alarm's reason is built from metrics and may hold anything; its name is ours.
        name, since = alarm["AlarmName"], alarm.get("StateTransitionedTimestamp") or alarm.get("StateUpdatedTimestamp")
        at = since if isinstance(since, datetime) else None  # without one, the flag is rejected by its key
        when = f" at {at:%Y-%m-%d %H:%M:%S} UTC" if at else ""
        return Flag(
            key=f"alarm {name} {at.isoformat() if at else 'without a time'}",
            source=f"CloudWatch alarm {name}",
            type=self._types[name],
            description=f"the CloudWatch alarm {name} went into the state ALARM{when}",
            discovered_at=at,
        )
