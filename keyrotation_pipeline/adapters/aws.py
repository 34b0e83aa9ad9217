"""Creates clients of AWS, each with a separate session: sessions are not thread-safe.

botocore's data about AWS (megabytes of JSON, a fifth of a second to read) is read once per process for all clients.
"""

from functools import cache
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.loaders import Loader


def client(service: str, *, region_name: str | None, endpoint_url: str | None, config: Config) -> Any:  # noqa: ANN401
    """Returns a client as ``boto3.client`` does; boto3 creates its methods at run time, so it has no static type.

    Credentials come from where boto3 looks for them.
    """
    session = botocore.session.get_session()
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    return boto3.session.Session(botocore_session=session).client(  # type: ignore[call-overload]
        service, region_name=region_name, endpoint_url=endpoint_url, config=config
    )


@cache
def _loader(path: str | None) -> Loader:
    return botocore.loaders.create_loader(path)
