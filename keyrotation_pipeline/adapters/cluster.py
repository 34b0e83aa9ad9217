"""Calls a Kubernetes API server: objects as plain JSON, and two kinds of failure.

Credentials come from where kubectl and Pods have them. urllib3 retries a bounded number of times: after a broken
connection, a time-out, throttling or a server error a call is sent again, although the first one may have taken
effect. So a caller guards each change by a resource version, or makes one that is idempotent.

An object may hold keys. Neither the server's text nor a failure's cause is passed on: both may repeat what was sent.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

Json = dict[str, Any]

_TIMEOUTS_SECONDS = (5, 15)
_AGAIN = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_RETRIES = urllib3.Retry(
    total=4,
    redirect=0,
    status_forcelist=_AGAIN,
    allowed_methods=None,
    backoff_factor=0.2,
    raise_on_status=False,
    respect_retry_after_header=False,  # it may request an hour
)


class RefusalError(Exception):
    """The API server refuses a call.

    Args:
        status: HTTP status.
    """

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"HTTP {status}")


class UnreachableError(Exception):
    """There is no API server, or it does not answer. The text says why, and what to check."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object, and its path in the API.

    Args:
        group: ``api/v1`` or ``apis/<group>/<version>``.
    """

    name: str
    group: str
    plural: str


SECRET = Kind("Secret", "api/v1", "secrets")
POD = Kind("Pod", "api/v1", "pods")
REPLICA_SET = Kind("ReplicaSet", "apis/apps/v1", "replicasets")
WORKLOADS = {
    name: Kind(name, "apis/apps/v1", plural)
    for name, plural in (("Deployment", "deployments"), ("StatefulSet", "statefulsets"), ("DaemonSet", "daemonsets"))
}


@dataclass(frozen=True, slots=True)
class Access:
    """The cluster and the account, as kubectl takes them. With neither: in the cluster, else as KUBECONFIG says."""

    kubeconfig: Path | None = None
    context: str | None = None


class Cluster:
    """A Kubernetes API server.

    Every method raises:
        RefusalError: the server refuses.
        UnreachableError: it cannot be reached.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._opened: client.ApiClient | None = None

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        """Returns one object."""
        return self._call("GET", _path(kind, namespace, name))

    def every(self, kind: Kind, namespace: str) -> list[Json]:
        """Returns every object of a kind in a namespace, from one list call."""
        return list(self._call("GET", _path(kind, namespace)).get("items") or ())

    def create(self, kind: Kind, namespace: str, name: str, content: Mapping[str, Any]) -> bool:
        """Creates an object; returns False if the name exists."""
        body = {"metadata": {"name": name, "namespace": namespace}, **content}
        try:
            self._call("POST", _path(kind, namespace), body)
        except RefusalError as refusal:
            if refusal.status == HTTPStatus.CONFLICT:
                return False
            raise
        return True

    def patch(self, kind: Kind, namespace: str, name: str, difference: Mapping[str, Any]) -> Json:
        """Merges a difference into an object (None: removes that entry); returns the object.

        If the difference names a resource version and the object has another, the call is refused with 409.
        """
        return self._call("PATCH", _path(kind, namespace, name), difference)

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Json:
        try:
            return self._answer(method, path, body)
        except ApiException as error:
            failure: Exception = RefusalError(error.status) if error.status else UnreachableError("no TLS connection")
        except HTTPError as error:
            failure = UnreachableError(
                f"the API server does not answer ({_reason(error)}); check its address and certificate, and the network"
            )
        except (config.ConfigException, yaml.YAMLError):
            failure = UnreachableError(
                "no cluster is configured; name a kubeconfig (and context) that holds it, set KUBECONFIG, or run in a "
                "Pod with a ServiceAccount"
            )
        except (TypeError, ValueError):
            failure = UnreachableError("the answer is not from an API server; check the address in the kubeconfig")
        raise failure from None

    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None) -> Json:
        # Raw: the client also logs what it parses.
        answer = self._client().call_api(
            f"/{path}",
            method,
            header_params={
                "Accept": "application/json",
                "Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json",
            },
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=_TIMEOUTS_SECONDS,
        )
        content = json.loads(answer.data)
        if not isinstance(content, dict):
            raise TypeError
        return content

    def _client(self) -> client.ApiClient:
        if self._opened is None:
            declared = client.Configuration()
            declared.retries = _RETRIES
            self._load(declared)
            self._opened = client.ApiClient(declared)
        return self._opened

    def _load(self, declared: client.Configuration) -> None:
        access = self._access
        if access == Access():
            try:
                config.load_incluster_config(client_configuration=declared)
            except config.ConfigException:
                config.load_kube_config(client_configuration=declared, persist_config=False)
            return
        path = str(access.kubeconfig) if access.kubeconfig else None
        config.load_kube_config(path, access.context, client_configuration=declared, persist_config=False)


def _path(kind: Kind, namespace: str, name: str = "") -> str:
    # The settings have checked the names: they contain no slash.
    return f"{kind.group}/namespaces/{namespace}/{kind.plural}/{name}".rstrip("/")


def _reason(error: HTTPError) -> str:
    return type(getattr(error, "reason", None) or error).__name__
