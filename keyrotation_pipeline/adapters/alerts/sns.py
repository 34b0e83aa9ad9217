"""Sends alerts to an Amazon SNS topic, to which people and machines subscribe."""

from typing import Any

from botocore.config import Config

from keyrotation_pipeline.adapters import aws
from keyrotation_pipeline.adapters.alerts import TIMEOUT_SECONDS, in_time
from keyrotation_pipeline.errors import AlertError
from keyrotation_pipeline.model.incidents import Alert

_CONFIG = Config(
    connect_timeout=TIMEOUT_SECONDS, read_timeout=TIMEOUT_SECONDS, retries={"mode": "standard", "total_max_attempts": 1}
)


class SnsTopic:
    """`AlertChannel` over one topic.

    Args:
        topic_arn: ``arn:aws:sns:<region>:<account>:<name>``.
        endpoint_url: as boto3 takes it; None: AWS.
    """

    def __init__(self, topic_arn: str, endpoint_url: str | None = None) -> None:
        self._topic_arn = topic_arn
        self._endpoint_url = endpoint_url

    @property
    def name(self) -> str:
        """``SNS topic <arn>``."""
        return f"SNS topic {self._topic_arn}"

    def deliver(self, alert: Alert) -> None:
        """See `AlertChannel.deliver`; severity, key and database are message attributes, for filters."""
        in_time(lambda: self._publish(alert), self.name)

    def _publish(self, alert: Alert) -> None:
        region = self._topic_arn.split(":")[3]
        attributes: Any = {
            name: {"DataType": "String", "StringValue": value}
            for name, value in (("severity", str(alert.severity)), ("key", alert.key), ("database", alert.database))
        }
        try:
            aws.client("sns", region_name=region, endpoint_url=self._endpoint_url, config=_CONFIG).publish(
                TopicArn=self._topic_arn,
                # SNS accepts only ASCII in a subject.
                Subject=alert.subject.encode("ascii", "replace").decode(),
                Message=f"{alert.text}\n\n{alert.database}, {alert.at:%Y-%m-%d %H:%M:%S} UTC",
                MessageAttributes=attributes,
            )
        except aws.FAILURES as error:
            raise AlertError(
                f"{self.name} does not accept alerts ({aws.code_of(error)}); check [alerts] sns_topic_arn and the "
                "right sns:Publish"
            ) from None
