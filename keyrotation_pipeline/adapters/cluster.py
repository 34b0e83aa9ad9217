"""Calls a Kubernetes API server: objects as plain JSON, and two kinds of failure.

Credentials come from where kubectl and Pods have them. After a broken connection, a time-out, throttling or a server
error a call is sent again, although the first one may have taken effect. So a caller guards each change by a resource
version, or makes one that is idempotent. A server that has answered is waited for, for more than a minute, and a token
that it has accepted is read again where it came from; one that never answered is reported within seconds.

An object may hold keys. Neither the server's text nor a failure's cause is passed on: both may repeat what was sent.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from keyrotation_pipeline.ports.clock import Clock

Json = dict[str, Any]

# By it the server's `managedFields` name our changes.
FIELD_MANAGER = "keyrotation"
_TIMEOUTS_SECONDS = (5, 15)
_HURRIED_TIMEOUTS_SECONDS = (2, 5)
# Before each further attempt; the later ones only where the server has answered, or accepted the token, before.
_PAUSES_SECONDS = (0.0, 0.4, 0.8, 1.6)
_OUTAGE_PAUSES_SECONDS = (3.0, 6.0, *(10.0,) * 7)
_LONGEST_OUTAGE_SECONDS = 80.0  # attempts that time out take time as well
_LONGEST_HURRIED_SECONDS = 3.0
_LONGEST_PAUSE_SECONDS = 30.0  # a server may request an hour
_AGAIN = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class RefusalError(Exception):
    """The API server refuses a call.

    Args:
        status: HTTP status.
        retry_after_seconds: how long the server wants to be left alone; 0: it does not say.
    """

    def __init__(self, status: int, retry_after_seconds: float = 0.0) -> None:
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"HTTP {status}")


class UnreachableError(Exception):
    """There is no API server, or it does not answer. The text says why, and what to check."""


class _OutageError(UnreachableError):
    """It does not answer now."""


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

    Args:
        has_answered: whether it did to the process that this one continues.

    Every method raises:
        RefusalError: the server refuses.
        UnreachableError: it cannot be reached.
    """

    def __init__(self, access: Access, clock: Clock, *, has_answered: bool = False) -> None:
        self._access = access
        self._clock = clock
        self._opened: client.ApiClient | None = None
        self.has_answered = has_answered
        self._hurried = False

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Inside, an outage is reported within seconds, since somebody waits for what the caller holds."""
        self._hurried = True
        try:
            yield
        finally:
            self._hurried = False

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        """Returns one object."""
        return self._call("GET", _path(kind, namespace, name))

    def metadata(self, kind: Kind, namespace: str, name: str) -> Json:
        """Returns the metadata of one object, without its content."""
        return dict(self._call("GET", _path(kind, namespace, name), accept=_METADATA)["metadata"])

    def every(self, kind: Kind, namespace: str) -> list[Json]:
        """Returns every object of a kind in a namespace, from one list call."""
        return list(self._call("GET", _path(kind, namespace)).get("items") or ())

    def create(self, kind: Kind, namespace: str, name: str, content: Mapping[str, Any]) -> bool:
        """Creates an object; returns False if the name exists."""
        body = {"metadata": {"name": name, "namespace": namespace}, **content}
        try:
            self._call("POST", f"{_path(kind, namespace)}?fieldManager={FIELD_MANAGER}", body)
        except RefusalError as refusal:
            if refusal.status == HTTPStatus.CONFLICT:
                return False
            raise
        return True

    def patch(self, kind: Kind, namespace: str, name: str, difference: Mapping[str, Any]) -> Json:
        """Merges a difference into an object (None: removes that entry); returns the object.

        If the difference names a resource version and the object has another, the call is refused with 409.
        """
        return self._call("PATCH", f"{_path(kind, namespace, name)}?fieldManager={FIELD_MANAGER}", difference)

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, accept: str = "application/json"
    ) -> Json:
        attempt, began = 0, self._clock.monotonic()
        while True:
            try:
                return self._attempt(method, path, body, accept)
            except RefusalError as refusal:
                if refusal.status == HTTPStatus.UNAUTHORIZED and self.has_answered:
                    self._opened = None  # the token has expired: the next attempt reads the one that replaced it
                elif refusal.status not in _AGAIN:
                    raise
                failure: RefusalError | UnreachableError = refusal
            except UnreachableError as error:
                if not (self.has_answered or isinstance(error, _OutageError)):
                    raise
                failure = error
            is_patient = self.has_answered and not self._hurried
            pauses = (*_PAUSES_SECONDS, *_OUTAGE_PAUSES_SECONDS) if is_patient else _PAUSES_SECONDS
            longest = _LONGEST_OUTAGE_SECONDS if is_patient else _LONGEST_HURRIED_SECONDS
            left = began + longest - self._clock.monotonic()
            requested = failure.retry_after_seconds if isinstance(failure, RefusalError) else 0.0
            if attempt == len(pauses) or left <= 0 or (requested > left and not is_patient):
                raise failure from None
            self._clock.sleep(max(pauses[attempt], min(requested, _LONGEST_PAUSE_SECONDS)))
            attempt += 1

    def _attempt(self, method: str, path: str, body: Mapping[str, Any] | None, accept: str) -> Json:
        try:
            answer = self._answer(method, path, body, accept)
        except ApiException as error:
            if not error.status:
                failure: Exception = UnreachableError("no TLS connection")
            else:
                # Anything may answer for a server that is away; but only the server itself throttles.
                self.has_answered |= error.status < HTTPStatus.INTERNAL_SERVER_ERROR and (
                    error.status != HTTPStatus.UNAUTHORIZED
                )
                failure = RefusalError(error.status, _retry_after(error))
        except HTTPError as error:
            failure = _OutageError(
                f"the API server does not answer ({_reason(error)}); check its address and certificate, and the network"
            )
        except (config.ConfigException, yaml.YAMLError):
            failure = UnreachableError(
                "no cluster is configured; name a kubeconfig (and context) that holds it, set KUBECONFIG, or run in a "
                "Pod with a ServiceAccount"
            )
        except (TypeError, ValueError):
            failure = UnreachableError("the answer is not from an API server; check the address in the kubeconfig")
        else:
            self.has_answered = True
            return answer
        raise failure from None

    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None, accept: str) -> Json:
        # Raw: the client also logs what it parses.
        answer = self._client().call_api(
            f"/{path}",
            method,
            header_params={
                "Accept": accept,
                "Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json",
            },
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=_HURRIED_TIMEOUTS_SECONDS if self._hurried else _TIMEOUTS_SECONDS,
        )
        content = json.loads(answer.data)
        if not isinstance(content, dict):
            raise TypeError
        return content

    def _client(self) -> client.ApiClient:
        if self._opened is None:
            declared = client.Configuration()
            declared.retries = urllib3.Retry(total=0, redirect=0)  # `_call` tries again
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


def _retry_after(error: ApiException) -> float:
    """Returns the seconds that an API server names; it never names a date."""
    try:
        return float((error.headers or {}).get("Retry-After", 0))
    except ValueError:
        return 0.0


def _reason(error: HTTPError) -> str:
    return type(getattr(error, "reason", None) or error).__name__
