"""An API server that is away for a minute, throttles, or no longer accepts a token: waited for, if it ever answered."""

import json
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from urllib3.exceptions import ReadTimeoutError

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.errors import KeyStoreUnavailableError
from keyrotation_pipeline_tests.clusters import Exchange, TestKeySecrets, exchanging, refusing
from keyrotation_pipeline_tests.contract.key_store import V1, V2, add, key, set_primary, shape
from keyrotation_pipeline_tests.contract.rollout_suite import READ_V2
from keyrotation_pipeline_tests.contract.test_kubernetes_rollout import (
    Stage,
    add_second,
    seen,
    stage,  # noqa: F401 - a fixture
)

if TYPE_CHECKING:
    from keyrotation_pipeline.adapters.cluster import Cluster


class Waits(SystemClock):
    """Pauses take no time, and are added up."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    @property
    def passed(self) -> float:
        return sum(self.pauses)

    def monotonic(self) -> float:
        return super().monotonic() + self.passed

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


def refused(_pool: Any, _method: str, _path: str, _send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
    """Nobody listens."""
    raise ConnectionRefusedError


def throttled(seconds: str) -> Exchange:
    def throttle(pool: Any, method: str, path: str, send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
        answer = refusing(429)(pool, method, path, send)
        answer.headers["Retry-After"] = seconds
        return answer

    return throttle


def away(clock: Waits, seconds: float, fault: Exchange) -> Exchange:
    """The server is so until the pauses from now on have lasted as long as that."""
    began = clock.passed

    def exchange(pool: Any, method: str, path: str, send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
        return send() if clock.passed - began >= seconds else fault(pool, method, path, send)

    return exchange


def cluster_of(secrets: TestKeySecrets, clock: SystemClock) -> "Cluster":
    from keyrotation_pipeline.adapters.cluster import Access, Cluster  # noqa: PLC0415

    return Cluster(Access(secrets.kubeconfig), clock)


def read(cluster: "Cluster", secrets: TestKeySecrets) -> str:
    from keyrotation_pipeline.adapters.cluster import SECRET  # noqa: PLC0415

    return str(cluster.metadata(SECRET, secrets.cluster.namespace, secrets.name)["name"])


FAULTS = [
    pytest.param(refused, id="nobody listens"),
    pytest.param(refusing(503), id="a load balancer without a server"),
    pytest.param(refusing(429), id="throttled"),
    pytest.param(refusing(401), id="its authentication is not ready"),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_has_answered_is_waited_for_for_more_than_a_minute(
    new_key_secrets: Callable[[], TestKeySecrets], fault: Exchange
) -> None:
    from keyrotation_pipeline.adapters.cluster import RefusalError, UnreachableError  # noqa: PLC0415

    secrets, clock = new_key_secrets(), Waits()
    cluster = cluster_of(secrets, clock)
    read(cluster, secrets)
    with exchanging(away(clock, 65, fault)):
        assert read(cluster, secrets) == secrets.name
    assert 65 <= clock.passed < 90
    with exchanging(fault), pytest.raises((RefusalError, UnreachableError)):
        read(cluster, secrets)
    assert 145 <= clock.passed < 180, "an outage that lasts is reported"


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        pytest.param(refused, 3, id="nobody listens"),
        pytest.param(refusing(503), 3, id="not a server"),
        pytest.param(refusing(401), 0, id="a wrong token"),
    ],
)
def test_one_that_never_answered_is_reported_within_seconds(
    new_key_secrets: Callable[[], TestKeySecrets], fault: Exchange, seconds: float
) -> None:
    from keyrotation_pipeline.adapters.cluster import RefusalError, UnreachableError  # noqa: PLC0415

    secrets, clock = new_key_secrets(), Waits()
    with exchanging(fault), pytest.raises((RefusalError, UnreachableError)):
        read(cluster_of(secrets, clock), secrets)
    assert clock.passed <= seconds


@pytest.mark.parametrize(
    ("asked", "pause"),
    [
        pytest.param("7", 7, id="as long as it wants"),
        pytest.param("3600", 30, id="but no hour"),
        pytest.param("Wed, 21 Oct 2026 07:28:00 GMT", 0, id="a date, which no API server names"),
    ],
)
def test_a_server_that_throttles_says_how_long_it_is_left_alone(
    new_key_secrets: Callable[[], TestKeySecrets], asked: str, pause: float
) -> None:
    secrets, clock = new_key_secrets(), Waits()
    with exchanging(away(clock, max(pause, 0.1), throttled(asked))):
        assert read(cluster_of(secrets, clock), secrets) == secrets.name
    assert clock.pauses[0] == pause


def test_a_token_that_has_expired_is_read_again(new_key_secrets: Callable[[], TestKeySecrets], tmp_path: Any) -> None:  # noqa: ANN401
    from keyrotation_pipeline.adapters.cluster import RefusalError  # noqa: PLC0415

    secrets, clock = new_key_secrets(), Waits()
    standin, namespace = secrets.cluster.standin, secrets.cluster.namespace
    if standin is None:
        pytest.skip("needs a token that can be made to expire")
    name, group = f"reader-{secrets.name}", "rbac.authorization.k8s.io"
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secrets.name], "verbs": ["get"]}
    roles = f"/apis/{group}/v1/namespaces/{namespace}"
    secrets.cluster.ask("POST", "serviceaccounts", {"metadata": {"name": name}})
    secrets.cluster.ask("POST", f"{roles}/roles", {"metadata": {"name": name}, "rules": [rule]})
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    bound = {"metadata": {"name": name}, "roleRef": {"apiGroup": group, "kind": "Role", "name": name}}
    secrets.cluster.ask("POST", f"{roles}/rolebindings", {**bound, "subjects": [subject]})

    path, content = tmp_path / "kubeconfig", json.loads(secrets.kubeconfig.read_text())

    def renew() -> None:
        standin.rights.accounts.clear()
        content["users"][0]["user"]["token"] = standin.rights.token(namespace, name)
        path.write_text(json.dumps(content))

    renew()
    cluster = cluster_of(TestKeySecrets(secrets.cluster, secrets.name, path), clock)
    assert read(cluster, secrets) == secrets.name
    renew()
    assert read(cluster, secrets) == secrets.name
    assert clock.passed == 0
    standin.rights.accounts.clear()
    with pytest.raises(RefusalError, match="401"):
        read(cluster, secrets)


def test_a_rollout_survives_a_minute_without_the_server(stage: Stage) -> None:  # noqa: F811
    workload = stage.fleet.start(replicas=2)
    add_second(stage)
    clock = stage.waits = Waits()
    until, outages = [0.0], iter([20, 65, 30])

    def begin() -> None:
        until[0] = clock.passed + next(outages, 0)

    def exchange(pool: Any, method: str, path: str, send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
        return send() if clock.passed >= until[0] else refused(pool, method, path, send)

    stage.meddle = begin
    with exchanging(exchange):
        assert seen(stage.roll_out(READ_V2)) == {((V1, V2), V1)}
    assert clock.passed >= 115
    assert stage.fleet.found(workload)["metadata"]["generation"] == 2


def test_a_change_of_keys_survives_a_minute_without_the_server(
    new_key_secrets: Callable[[], TestKeySecrets],
) -> None:
    secrets, clock = new_key_secrets(), Waits()
    store = secrets.open(clock)
    add(store, V1, key(1))
    with exchanging(away(clock, 65, refused)):
        set_primary(store, V1)
    assert shape(store.read()) == ((V1,), (), V1)


def test_no_outage_is_waited_for_while_tables_are_locked(new_key_secrets: Callable[[], TestKeySecrets]) -> None:
    """The retirement archives the old key in its transaction: applications would wait as long."""
    secrets, clock = new_key_secrets(), Waits()
    store = secrets.open(clock)
    add(store, V1, key(1))
    add(store, V2, key(2))
    set_primary(store, V2)
    revision, before = store.read().revision, clock.passed
    with exchanging(refused), pytest.raises(KeyStoreUnavailableError):
        store.archive(V1, revision)
    assert clock.passed - before < 3
    with exchanging(away(clock, 65, refused)):
        assert shape(store.read()) == ((V1, V2), (), V2), "anything else is waited for again"


def test_one_that_accepts_and_says_nothing_is_asked_once_while_tables_are_locked_or_if_it_never_answered(
    new_key_secrets: Callable[[], TestKeySecrets],
) -> None:
    secrets, clock = new_key_secrets(), Waits()

    def silent(_pool: Any, _method: str, path: str, _send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
        clock.sleep(15)
        raise ReadTimeoutError(None, path, "read timed out")  # type: ignore[arg-type]

    from keyrotation_pipeline.adapters.cluster import UnreachableError  # noqa: PLC0415

    with exchanging(silent), pytest.raises(UnreachableError):
        read(cluster_of(secrets, clock), secrets)
    assert clock.pauses == [15]
    cluster = cluster_of(secrets, clock)
    read(cluster, secrets)
    with exchanging(silent), cluster.hurried(), pytest.raises(UnreachableError):
        read(cluster, secrets)
    assert clock.pauses == [15, 15]


def test_a_worker_process_waits_as_the_process_that_started_it(new_key_secrets: Callable[[], TestKeySecrets]) -> None:
    store = new_key_secrets().open(Waits())
    unused = pickle.dumps(store)
    store.read()
    used, attempts = pickle.dumps(store), iter(range(8))

    def refuse_some(pool: Any, method: str, path: str, send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
        return send() if next(attempts, None) is None else refused(pool, method, path, send)

    with exchanging(refuse_some), pytest.raises(KeyStoreUnavailableError):
        pickle.loads(unused).read()  # noqa: S301 - our own
    attempts = iter(range(8))
    with exchanging(refuse_some):
        assert shape(pickle.loads(used).read()) == ((), (), None)  # noqa: S301
