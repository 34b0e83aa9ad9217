"""POSTs to an address of the configuration, with the login in it and no other, and follows it nowhere else."""

from typing import Any

import requests
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url

TIMEOUT_SECONDS = 10


def post(url: str, **content: Any) -> requests.Response:  # noqa: ANN401  as requests takes it
    """Sends one request; the body of the answer is not read yet.

    Without a login of its own requests would send what ``~/.netrc`` has for the host, or for every host.

    Args:
        content: `json`, or `data` and `headers`, as `requests.post` takes them.

    Raises:
        requests.RequestException, ValueError: it cannot be sent, or is not answered.
    """
    login = get_auth_from_url(url)
    auth = HTTPBasicAuth(*login) if any(login) else _without_login
    return requests.post(url, auth=auth, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True, **content)


def _without_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
