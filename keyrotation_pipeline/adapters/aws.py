"""Creates clients of AWS, each with a separate session: sessions are not thread-safe; names what their calls fail with.

botocore's data about AWS (megabytes of JSON, a fifth of a second to read) is read once per process for all clients.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import boto3
import botocore.session
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader
from botocore.parsers import ResponseParserError

FAILURES = (ClientError, BotoCoreError, Boto3Error, ResponseParserError)
_REFUSED = 300
_REQUEST_IDS = ("x-amzn-requestid", "x-amz-request-id")


class NotFromAwsError(BotoCoreError):
    """Something else than AWS answers, such as a proxy with a page of its own."""

    fmt = "the answer is not from AWS"


def code_of(error: Exception) -> str:
    """Returns AWS's code for a refusal, else the name of the failure."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "unknown"))
    return type(error).__name__


def client(
    service: str, *, region_name: str | None, endpoint_url: str | None, config: Config, of_aws: bool = True
) -> Any:  # noqa: ANN401
    """Returns a client as ``boto3.client`` does; boto3 creates its methods at run time, so it has no static type.

    Credentials come from where boto3 looks for them.

    Args:
        of_aws: refuse an answer that names no request; others who speak S3 need not.
    """
    session = botocore.session.get_session()
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    made: Any = boto3.session.Session(botocore_session=session).client(  # type: ignore[call-overload]
        service, region_name=region_name, endpoint_url=endpoint_url, config=config
    )
    if of_aws:
        made.meta.events.register("before-parse", _require_aws)
    return made


def _require_aws(response_dict: Mapping[str, Any], **_: object) -> None:
    """Refuses a page that came with status 200, which botocore takes for an answer that holds nothing."""
    named = any(name in response_dict["headers"] for name in _REQUEST_IDS)
    if response_dict["status_code"] < _REFUSED and not named:
        raise NotFromAwsError


@cache
def _loader(path: str | None) -> Loader:
    return botocore.loaders.create_loader(path)
