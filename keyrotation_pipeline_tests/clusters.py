"""A Kubernetes API server for tests, at whose calls something can happen: a stand-in, or a real one.

`KEYROTATION_TEST_KUBECONFIG` names a kubeconfig of a real cluster, in which the tests make a namespace of their own. It
needs a node: Pods of `fleets` must really run. CONTRIBUTING.md says what else.
They go through the API alone, and faults are injected into urllib3, so that they ask nothing of a stand-in.
"""

import base64
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.keystores.key_list import KeyList
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import BARE_KEYS, KeyNotation
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import PRIMARY_VARIABLE, variable_of
from keyrotation_pipeline.fieldcrypto.seal import UNSEALED, Seal
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline_tests.fakes import ProcessKilled

if TYPE_CHECKING:
    from keyrotation_pipeline.adapters.keystores.kubernetes import KubernetesKeyStore
    from keyrotation_pipeline.adapters.keystores.kubernetes_secrets import SecretName
    from keyrotation_pipeline_tests.kubernetes_standin.server import Standin

# Imported where they are used: the client takes a second, which every other test run would wait for.

VARIABLE = "KEYROTATION_TEST_KUBECONFIG"
CHANGING = ("POST", "PUT", "PATCH", "DELETE")
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_MAKE_REQUEST = "urllib3.connectionpool.HTTPConnectionPool._make_request"
_numbers = itertools.count()
# One exchange: the pool, its connection, the method and the path; `send` lets it happen.
Exchange = Callable[[Any, str, str, Callable[[], Any]], Any]


@dataclass(frozen=True)
class TestCluster:
    """A cluster, a namespace in it, and a way to look past our adapters.

    Args:
        standin: None: the cluster is a real one.
    """

    __test__ = False
    kubeconfig: Path
    namespace: str
    standin: "Standin | None"

    def ask(self, method: str, path: str, body: Any = None) -> Any:  # noqa: ANN401 - JSON
        """One call, as administrator; a path without a leading slash is one in the namespace."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        answer = _client_of(self.kubeconfig, self.kubeconfig.read_text()).call_api(
            path if path.startswith("/") else f"/api/v1/namespaces/{self.namespace}/{path}",
            method,
            header_params={"Accept": "application/json", "Content-Type": kind},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
        )
        return json.loads(answer.data)


@cache
def _client_of(kubeconfig: Path, _content: str) -> Any:  # noqa: ANN401 - kubernetes has no types
    from kubernetes import config  # noqa: PLC0415

    return config.new_client_from_config(str(kubeconfig))


@dataclass(frozen=True)
class TestKeySecrets:
    """The Secrets of one key store, and the store.

    Args:
        variable, notation: of the application's own list; see `KeyList`.
    """

    __test__ = False
    cluster: TestCluster
    name: str
    kubeconfig: Path
    variable: str | None = None
    notation: KeyNotation = BARE_KEYS

    @property
    def archive(self) -> str:
        return f"{self.name}-archive"

    def sealed(self, seal: Seal) -> "KubernetesKeyStore":
        """The store, with keys under a seal."""
        return self.open(seal=seal)

    def open(self, clock: Clock | None = None, seal: Seal = UNSEALED) -> "KubernetesKeyStore":
        from keyrotation_pipeline.adapters.cluster import Access  # noqa: PLC0415
        from keyrotation_pipeline.adapters.keystores.kubernetes import KeySecrets, KubernetesKeyStore  # noqa: PLC0415
        from keyrotation_pipeline.adapters.keystores.kubernetes_secrets import SecretName  # noqa: PLC0415

        live, archive = (SecretName(self.cluster.namespace, name) for name in (self.name, self.archive))
        secrets = KeySecrets(live, archive, Access(self.kubeconfig), self.key_list(live, sealed=seal != UNSEALED), seal)
        return KubernetesKeyStore(secrets, clock or SystemClock())

    def key_list(self, live: "SecretName", *, sealed: bool = False) -> KeyList | None:
        name = self.variable
        return None if name is None else KeyList(name, f"entry {name} of {live}", self.notation, sealed)

    def listed(self) -> str | None:
        """The application's own list."""
        return self.entries().get(str(self.variable))

    def change_list(self, text: str | None) -> None:
        """Change it past our adapter; None: take it away."""
        self.overwrite({str(self.variable): text})

    def secret(self, name: str = "") -> dict[str, Any]:
        content: dict[str, Any] = self.cluster.ask("GET", f"secrets/{name or self.name}")
        return content

    def entries(self, name: str = "") -> dict[str, str]:
        """What a Secret holds; without a name the live one."""
        data = self.secret(name).get("data") or {}
        return {entry: base64.b64decode(text).decode() for entry, text in data.items()}

    def overwrite(self, entries: dict[str, str | None], name: str = "", **parts: Any) -> None:  # noqa: ANN401 - JSON
        """Change entries (None: take away), and other parts of the Secret, past our adapter."""
        data = {
            entry: None if text is None else base64.b64encode(text.encode()).decode() for entry, text in entries.items()
        }
        self.cluster.ask("PATCH", f"secrets/{name or self.name}", {"data": data, **parts})

    def delete(self, name: str = "") -> None:
        self.cluster.ask("DELETE", f"secrets/{name or self.name}")

    @contextmanager
    def dying(self, moment: int) -> Iterator[None]:
        calls = iter(range(1, moment))

        def die(_pool: Any, method: str, path: str, send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
            if method in CHANGING and next(calls, None) is None:
                raise ProcessKilled(path)
            return send()

        with exchanging(die):
            yield

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        with exchanging(refusing(503)):
            yield

    def damage(self, version: KeyVersion, text: str) -> None:
        self.overwrite({variable_of(version): text})

    def spoil(self) -> None:
        self.overwrite({PRIMARY_VARIABLE: "2"})


@contextmanager
def exchanging(exchange: Exchange) -> Iterator[None]:
    """Inside, every HTTP exchange of this process goes through `exchange`, beneath what urllib3 tries again."""
    from urllib3.connectionpool import HTTPConnectionPool  # noqa: PLC0415

    real = HTTPConnectionPool._make_request  # noqa: SLF001  below retries, where an answer is lost

    def make_request(pool: Any, connection: Any, method: str, url: str, **options: Any) -> Any:  # noqa: ANN401
        sent: list[str] = []

        def send() -> Any:  # noqa: ANN401 - urllib3's
            sent.append(url)
            return real(pool, connection, method, url, **options)

        try:
            return exchange(pool, method, url, send)
        finally:
            if not sent:
                connection.close()

    with mock.patch(_MAKE_REQUEST, make_request), mock.patch("urllib3.util.retry.time.sleep"):
        yield


def refusing(status: int) -> Exchange:
    """Every exchange is answered so, and has no effect."""

    def refuse(_pool: Any, method: str, path: str, _send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
        from urllib3 import HTTPResponse  # noqa: PLC0415

        body = json.dumps({"kind": "Status", "code": status, "message": "SECRET-TEXT"}).encode()
        return HTTPResponse(
            io.BytesIO(body), {"content-type": "application/json"}, status, preload_content=False,
            request_method=method, request_url=path,
        )  # fmt: skip

    return refuse


def timing_out_after_the_effect(pool: Any, _method: str, path: str, send: Callable[[], Any]) -> Any:  # noqa: ANN401
    """The exchange takes effect, and its answer is lost."""
    from urllib3.exceptions import ReadTimeoutError  # noqa: PLC0415

    send()
    raise ReadTimeoutError(pool, path, "no answer")


class Once:
    """The moment-th exchange that changes something, and it alone, goes as `fault` has it; the others as they are."""

    def __init__(self, moment: int, fault: Exchange) -> None:
        self._calls = iter(range(1, moment))
        self._fault = fault
        self.hit: list[str] = []

    def __call__(self, pool: Any, method: str, path: str, send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
        if method in CHANGING and not self.hit and next(self._calls, None) is None:
            self.hit.append(f"{method} {path}")
            return self._fault(pool, method, path, send)
        return send()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """A namespace of this session's own."""
    namespace = f"keyrotation-test-{os.urandom(3).hex()}"
    if path := os.environ.get(VARIABLE):
        found = TestCluster(Path(path), namespace, None)
        found.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        yield found
        found.ask("DELETE", f"/api/v1/namespaces/{namespace}")
        return
    from keyrotation_pipeline_tests.kubernetes_standin.server import Standin, serve  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("cluster")
    certificate, kubeconfig = folder / "certificate.pem", folder / "kubeconfig"
    standin = Standin()
    serve(standin, certificate)
    write_kubeconfig(kubeconfig, standin.url, "admin", certificate)
    standin.objects.namespaces.add(namespace)
    yield TestCluster(kubeconfig, namespace, standin)


def write_kubeconfig(path: Path, server: str, token: str, certificate: Path | None = None) -> None:
    """A kubeconfig of one user; JSON is YAML."""
    trusted = {} if certificate is None else {"certificate-authority": str(certificate)}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": server, **trusted}}],
        "users": [{"name": "test", "user": {"token": token}}],
    }
    path.write_text(json.dumps(content))


@pytest.fixture
def new_key_secrets(cluster: TestCluster, key_list: str | None) -> Callable[[], TestKeySecrets]:
    """Makes another pair of Secrets, without a key, at each call."""

    def new() -> TestKeySecrets:
        secrets = TestKeySecrets(cluster, f"pazpaz-secrets-{next(_numbers)}", cluster.kubeconfig, key_list)
        secrets.open().create()
        return secrets

    return new
