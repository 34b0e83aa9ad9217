"""Who read the key, out of CloudTrail's records."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.incidents.access import AccessAudit, bars, key_reads, span_of
from keyrotation_pipeline.incidents.report import incident_report
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline_tests.unit.incidents.cases import opened, signed, walk
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

SINCE, UNTIL = datetime(2026, 1, 5, 8, tzinfo=UTC), datetime(2026, 1, 5, 20, tzinfo=UTC)
SECRETS = ("pazpaz/encryption-key", "pazpaz/encryption-key-")
ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:pazpaz/encryption-key-AbC123"


def record(number: int, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """One record as CloudTrail writes it."""
    return {
        "eventID": f"id-{number}",
        "eventSource": "secretsmanager.amazonaws.com",
        "eventName": "GetSecretValue",
        "eventTime": "2026-01-05T09:00:00Z",
        "sourceIPAddress": "10.0.0.1",
        "userAgent": "Boto3",
        "userIdentity": {"type": "AssumedRole", "arn": "arn:aws:sts::123456789012:assumed-role/api/web-1"},
        "requestParameters": {"secretId": "pazpaz/encryption-key"},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        pytest.param({}, True, id="by its name"),
        pytest.param({"requestParameters": {"secretId": ARN}}, True, id="by its ARN"),
        pytest.param(
            {"requestParameters": {"secretId": "pazpaz/encryption-key-v1-archived-20260101"}}, True, id="archived"
        ),
        pytest.param({"requestParameters": {"secretId": "pazpaz/encryption-keys"}}, False, id="another secret"),
        pytest.param({"requestParameters": {"secretId": "other/pazpaz/encryption-key"}}, False, id="another beginning"),
        pytest.param(
            {"eventName": "BatchGetSecretValue", "requestParameters": {"secretIdList": ["a", ARN]}}, True, id="a batch"
        ),
        pytest.param({"eventName": "DescribeSecret"}, False, id="no read"),
        pytest.param({"eventSource": "kms.amazonaws.com"}, False, id="another service"),
        pytest.param({"eventTime": "2026-01-05T07:59:59Z"}, False, id="before"),
        pytest.param({"eventTime": "2026-01-05T20:00:01Z"}, False, id="after"),
        pytest.param({"eventTime": "soon"}, False, id="no moment"),
        pytest.param({"eventTime": "2026-01-05T09:00:00"}, False, id="a moment without a zone"),
        pytest.param({"eventTime": "0001-01-01T00:00:00+23:59"}, False, id="a moment before the first"),
        pytest.param({"requestParameters": None}, False, id="no parameters"),
        pytest.param({"requestParameters": "x"}, False, id="parameters of another form"),
    ],
)
def test_which_records_are_reads_of_the_key(changes: dict[str, Any], found: bool) -> None:
    assert bool(key_reads([record(1, **changes)], SECRETS, SINCE, UNTIL)) is found


def test_each_event_counts_once_and_who_came_seldom_is_first() -> None:
    stranger = {"type": "IAMUser", "arn": "arn:aws:iam::123456789012:user/mallory"}
    records = [record(1), record(1), record(2), record(3, userIdentity=stranger, sourceIPAddress="203.0.113.9")]
    found = key_reads(records, SECRETS, SINCE, UNTIL)
    assert [each.event_id for each in found] == ["id-3", "id-1", "id-2"]
    assert (found[0].who, found[0].address) == ("arn:aws:iam::123456789012:user/mallory", "203.0.113.9")


def test_a_refused_read_says_so_and_the_chart_is_by_hour() -> None:
    records = [record(1), record(2), record(3, eventTime="2026-01-05T10:30:00Z", errorCode="AccessDenied")]
    found = key_reads(records, SECRETS, SINCE, UNTIL)
    assert [each.refused for each in found] == [None, None, "AccessDenied"]
    chart = list(bars(AccessAudit(SINCE, UNTIL, found, None)))
    assert [line.split()[1:] for line in chart] == [["09:00", "█" * 40, "2"], ["10:00", "█" * 20, "1"]]
    assert timedelta(hours=12) == UNTIL - SINCE


def test_the_period_ends_when_applications_are_seen_to_be_without_the_key_and_not_when_the_store_withdrew_it() -> None:
    world = before_any_rotation()
    incident, prepared = opened(world)
    incident = incidents(world.ledger).incident(incident.id)
    walk(world, signed(world, prepared), Step.RETIRED_KEY)
    world.clock.at += timedelta(hours=1)
    until = world.clock.at
    assert span_of(incident, world.ledger.requests(), until) == (incident.discovered_at, until)
    assert (
        "and withdrawn from the key store 2026-01-05 09:00 UTC; "
        in incident_report(world.pipeline, incident.id).markdown()
    )
    walk(world, prepared, Step.ARCHIVED_KEY)
    world.clock.at += timedelta(hours=1)
    assert span_of(incident, world.ledger.requests(), world.clock.at) == (incident.discovered_at, until)
    assert (
        "; the wait for applications, where one is configured, ended 2026-01-05 10:00 UTC; "
        in incident_report(world.pipeline, incident.id).markdown()
    )
