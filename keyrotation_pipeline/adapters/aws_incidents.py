"""Reads what AWS knows of incidents: CloudWatch's alarms and CloudTrail's log files.

Each change of an alarm into the state ALARM is a flag. The log files are gzip-compressed JSON in S3, one folder per
day, as AWS writes them.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from botocore.config import Config

from keyrotation_pipeline.adapters import aws
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.model.incidents import Flag

_ALARMS_CONFIG = Config(connect_timeout=10, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})
# DescribeAlarms accepts so many names at once.
_AT_ONCE = 100


class CloudWatchAlarms:
    """`FlagSource` over the alarms that the configuration names.

    Args:
        types: of the incident that each alarm reports, by the alarm's name.
        region_name, endpoint_url: as boto3 takes them.
    """

    def __init__(
        self, types: Mapping[str, str], region_name: str | None = None, endpoint_url: str | None = None
    ) -> None:
        self._types = types
        self._region_name = region_name
        self._endpoint_url = endpoint_url

    def raised(self) -> tuple[Flag, ...]:
        """See `FlagSource.raised`; an alarm that clears and fires again is another flag."""
        try:
            found = [alarm for names in self._pages() for alarm in self._alarms(names)]
        except aws.FAILURES as error:
            raise IncidentError(
                f"CloudWatch does not report its alarms ({aws.code_of(error)}); check [incidents] and the right "
                "cloudwatch:DescribeAlarms"
            ) from None
        return tuple(self._flag(alarm) for alarm in sorted(found, key=lambda each: str(each["AlarmName"])))

    def _pages(self) -> list[list[str]]:
        names = list(self._types)
        return [names[first : first + _AT_ONCE] for first in range(0, len(names), _AT_ONCE)]

    def _alarms(self, names: list[str]) -> list[Mapping[str, Any]]:
        client = aws.client(
            "cloudwatch", region_name=self._region_name, endpoint_url=self._endpoint_url, config=_ALARMS_CONFIG
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


_LOGS_CONFIG = Config(connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})
# AWS writes files of a few megabytes; one that unpacks to more is not from AWS.
LARGEST_BYTES = 256 * 1024 * 1024
# A file lies under the day of its delivery, which is some minutes after the events.
DELIVERED_WITHIN = timedelta(days=1)
_TRAIL = "CloudTrail/"
_DEEPEST = 6


class CloudTrailFiles:
    """`CloudTrail` over a bucket.

    Args:
        prefix: the part before ``AWSLogs/``, with its ``/``; usually empty.
        region_name, endpoint_url: as boto3 takes them.
    """

    def __init__(
        self, bucket: str, prefix: str = "", region_name: str | None = None, endpoint_url: str | None = None
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._region_name = region_name
        self._endpoint_url = endpoint_url

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401
        return aws.client("s3", region_name=self._region_name, endpoint_url=self._endpoint_url, config=_LOGS_CONFIG)

    def records(self, since: datetime, until: datetime) -> Iterator[Mapping[str, Any]]:
        """See `CloudTrail.records`; covers every account and region of the bucket."""
        try:
            regions = [region for trail in self._trails(f"{self._prefix}AWSLogs/") for region in self._folders(trail)]
            for region in regions:
                for day in _days(since, until + DELIVERED_WITHIN):
                    for key in self._keys(f"{region}{day:%Y/%m/%d}/"):
                        yield from self._read(key)
        except aws.FAILURES as error:
            raise IncidentError(
                f"the CloudTrail logs in the bucket {self._bucket} cannot be read ({aws.code_of(error)}); check "
                "[incidents] cloudtrail_bucket and the rights s3:ListBucket and s3:GetObject"
            ) from None

    def _trails(self, folder: str, depth: int = 0) -> Iterator[str]:
        """Yields folders of trails: ``AWSLogs/`` contains accounts, possibly below an organisation's folder."""
        for each in self._folders(folder):
            if each.endswith(f"/{_TRAIL}"):
                yield each
            elif depth < _DEEPEST:
                yield from self._trails(each, depth + 1)

    def _folders(self, prefix: str) -> list[str]:
        paginator = self._client.get_paginator("list_objects_v2")
        pages = paginator.paginate(Bucket=self._bucket, Prefix=prefix, Delimiter="/")
        return [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", ())]

    def _keys(self, prefix: str) -> Iterator[str]:
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
            yield from (each["Key"] for each in page.get("Contents", ()) if each["Key"].endswith(".json.gz"))

    def _read(self, key: str) -> list[Mapping[str, Any]]:
        packed = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read(LARGEST_BYTES)
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
                text = file.read(LARGEST_BYTES + 1)
            records = json.loads(text)["Records"] if len(text) <= LARGEST_BYTES else None
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, RecursionError):
            records = None
        if not isinstance(records, list):
            raise IncidentError(f"{key} in {self._bucket} is not a CloudTrail log file; find out who wrote it")
        return [each for each in records if isinstance(each, dict)]


def _days(since: datetime, until: datetime) -> Iterator[datetime]:
    day = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    while day <= until:
        yield day
        day += timedelta(days=1)
