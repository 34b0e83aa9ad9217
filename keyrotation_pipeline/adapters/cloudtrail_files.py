"""Reads CloudTrail's log files in S3: gzip-compressed JSON, one folder per day, as AWS writes them."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from keyrotation_pipeline.adapters import aws
from keyrotation_pipeline.errors import IncidentError

_CONFIG = Config(connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})
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
        self._client = aws.client("s3", region_name=region_name, endpoint_url=endpoint_url, config=_CONFIG)

    def records(self, since: datetime, until: datetime) -> Iterator[Mapping[str, Any]]:
        """See `CloudTrail.records`; covers every account and region of the bucket."""
        try:
            regions = [region for trail in self._trails(f"{self._prefix}AWSLogs/") for region in self._folders(trail)]
            for region in regions:
                for day in _days(since, until + DELIVERED_WITHIN):
                    for key in self._keys(f"{region}{day:%Y/%m/%d}/"):
                        yield from self._read(key)
        except (ClientError, BotoCoreError) as error:
            code = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
            raise IncidentError(
                f"the CloudTrail logs in the bucket {self._bucket} cannot be read ({code}); check [incidents] "
                "cloudtrail_bucket and the rights s3:ListBucket and s3:GetObject"
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
