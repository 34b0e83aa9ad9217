"""Clients of AWS, each with a session of its own: sessions are not made for several threads.

What botocore knows of AWS (megabytes of JSON, a fifth of a second to read) is read once a process for all of them.
"""

from functools import cache
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.loaders import Loader


def client(service: str, *, region_name: str | None, endpoint_url: str | None, config: Config) -> Any:  # noqa: ANN401
    """A client, as ``boto3.client`` gives it: boto3 makes its methods at run time, so that no type tells of them.

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
