"""CloudWatch alarms as flags, against moto's server."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.model.incidents import checked
from keyrotation_pipeline_tests.buckets import CREDENTIALS, REGION, s3_url  # noqa: F401


@pytest.fixture
def cloudwatch(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:  # noqa: F811
    import boto3  # noqa: PLC0415

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    client: Any = boto3.client("cloudwatch", endpoint_url=s3_url, region_name=REGION)
    for name in ("key-access", "quiet", "of-somebody-else"):
        client.put_metric_alarm(
            AlarmName=name, MetricName="EncryptionKeyAccess", Namespace="pazpaz", Period=3600, EvaluationPeriods=1,
            Statistic="Sum", Threshold=100, ComparisonOperator="GreaterThanThreshold",
        )  # fmt: skip
    yield client
    client.delete_alarms(AlarmNames=["key-access", "quiet", "of-somebody-else"])


def test_each_change_into_alarm_is_one_flag(cloudwatch: Any, s3_url: str) -> None:  # noqa: ANN401, F811
    from keyrotation_pipeline.adapters.aws_incidents import CloudWatchAlarms  # noqa: PLC0415

    watched = {"key-access": "unauthorized_access", "quiet": "insider"}
    source = CloudWatchAlarms(watched, REGION, s3_url)
    assert source.raised() == ()
    for name in ("key-access", "of-somebody-else"):
        cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="test")
    (flag,) = source.raised()
    assert source.raised() == (flag,)
    assert flag.key.startswith("alarm key-access 20")
    assert checked(flag, datetime.now(UTC)).type == "unauthorized_access"
    cloudwatch.set_alarm_state(AlarmName="key-access", StateValue="OK", StateReason="test")
    assert source.raised() == ()
    cloudwatch.set_alarm_state(AlarmName="key-access", StateValue="ALARM", StateReason="again")
    (again,) = source.raised()
    assert again.key != flag.key


@pytest.mark.parametrize("since", [None, "yesterday", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23)))])
def test_an_alarm_that_cannot_be_read_hides_no_other(monkeypatch: pytest.MonkeyPatch, since: object) -> None:
    from keyrotation_pipeline.adapters import aws  # noqa: PLC0415
    from keyrotation_pipeline.adapters.aws_incidents import CloudWatchAlarms  # noqa: PLC0415

    now = datetime.now(UTC)
    odd = {"AlarmName": "a", "StateValue": "ALARM", "StateUpdatedTimestamp": since}
    good = {"AlarmName": "b", "StateValue": "ALARM", "StateTransitionedTimestamp": now}
    answer = {"MetricAlarms": [odd, good, {}, {"AlarmName": "b"}]}

    class Client:
        """No server says such things of itself."""

        def describe_alarms(self, **_: object) -> dict[str, Any]:
            return answer

    monkeypatch.setattr(aws, "client", lambda *_, **__: Client())
    watched = {"a": "insider", "b": "insider"}
    first, second = CloudWatchAlarms(watched, REGION).raised()
    assert first.key.startswith("alarm a ")
    assert first.news
    with pytest.raises(IncidentError, match="its discovered_at is missing"):
        checked(first, now)
    assert checked(second, now).type == "insider"


def test_one_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from keyrotation_pipeline.adapters.aws_incidents import CloudWatchAlarms  # noqa: PLC0415

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(IncidentError, match=r"CloudWatch does not report its alarms \(EndpointConnectionError\)"):
        CloudWatchAlarms({"a": "insider"}, REGION, "http://127.0.0.1:9").raised()
