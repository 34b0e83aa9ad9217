"""The CloudFormation template: valid by AWS's own schemas; its filters and alarms are made in moto."""

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine.default import DefaultDialect

from keyrotation_pipeline.encrypted_type import EncryptedType, KeyRing
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline_tests.buckets import CREDENTIALS, REGION, s3_url  # noqa: F401

TEMPLATE = Path(__file__).parents[2] / "deploy" / "aws" / "monitoring.yaml"
V1, V2 = KeyVersion(1), KeyVersion(2)
PARAMETERS = {"SecretId": "pazpaz/encryption-key", "CloudTrailLogGroup": "trail", "ApplicationLogGroup": "api"}


def test_the_template_is_valid() -> None:
    from cfnlint.api import lint  # type: ignore[import-untyped]  # noqa: PLC0415  seconds to import

    assert lint(TEMPLATE.read_text(), regions=[REGION]) == []


def test_its_topics_filters_and_alarms_are_made_as_the_procedure_asks(
    s3_url: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import boto3  # noqa: PLC0415

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)

    def client(service: str) -> Any:  # noqa: ANN401
        return boto3.client(service, endpoint_url=s3_url, region_name=REGION)  # type: ignore[call-overload]

    # moto makes no filter and no alarm from a template, so they are made by the calls that CloudFormation makes.
    logs, cloudwatch, sns = client("logs"), client("cloudwatch"), client("sns")
    for group in ("trail", "api"):
        logs.create_log_group(logGroupName=group)
    topics = {name: sns.create_topic(Name=f"pazpaz-{name}")["TopicArn"] for name in ("SecurityTeam", "OnCall")}
    resources = _resolved(topics)
    for resource in resources.values():
        properties = resource["Properties"]
        if resource["Type"] == "AWS::Logs::MetricFilter":
            made = [{key[0].lower() + key[1:]: value for key, value in properties["MetricTransformations"][0].items()}]
            logs.put_metric_filter(
                logGroupName=properties["LogGroupName"],
                filterName="filter",
                filterPattern=properties["FilterPattern"],
                metricTransformations=made,
            )
        elif resource["Type"] == "AWS::CloudWatch::Alarm":
            cloudwatch.put_metric_alarm(**properties)
    (access,) = logs.describe_metric_filters(logGroupName="trail")["metricFilters"]
    assert '$.requestParameters.secretId = "*pazpaz/encryption-key*"' in access["filterPattern"]
    alarms = {each["AlarmName"]: each for each in cloudwatch.describe_alarms(AlarmNamePrefix="pazpaz-")["MetricAlarms"]}
    reported = {name: (each["Threshold"], each["Period"]) for name, each in alarms.items()}
    assert reported == {"pazpaz-key-access": (100.0, 3600), "pazpaz-decryption-failures": (10.0, 60)}
    assert alarms["pazpaz-key-access"]["AlarmActions"] == [topics["SecurityTeam"]]


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(encrypt(KeyRing({V1: KeyMaterial.generate()}, V1), "Zoe"), id="under another key"),
        pytest.param(encrypt(KeyRing({V2: KeyMaterial.generate()}, V2), "Zoe"), id="under a version without a key"),
        pytest.param("v1:damaged", id="damaged"),
        pytest.param("Zoe", id="never encrypted"),
    ],
)
def test_whatever_an_application_cannot_read_is_counted_by_the_filter_of_its_log(stored: str) -> None:
    pattern = _resolved({})["DecryptionFailuresFilter"]["Properties"]["FilterPattern"]
    terms = re.findall(r'\?"([^"]+)"', pattern)
    column = EncryptedType(KeyRing({V1: KeyMaterial.generate()}, V1))
    with pytest.raises(KeyRotationError) as failed:
        column.process_result_value(stored, DefaultDialect())
    assert [term for term in terms if term in str(failed.value)]


def _resolved(topics: dict[str, str]) -> dict[str, Any]:
    """The template's resources with `!Ref` and `!Sub` filled in."""
    import yaml  # noqa: PLC0415

    names = {**PARAMETERS, "MetricNamespace": "KeyRotation", "AWS::StackName": "pazpaz"}
    names |= topics

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    def filled(text: str) -> str:
        for name, value in names.items():
            text = text.replace(f"${{{name}}}", value)
        return text

    Loader.add_constructor("!Ref", lambda _, node: names.get(node.value, node.value))
    Loader.add_constructor("!Sub", lambda _, node: filled(node.value))
    content: dict[str, Any] = yaml.load(TEMPLATE.read_text(), Loader)  # noqa: S506  a SafeLoader
    return dict(content["Resources"])
