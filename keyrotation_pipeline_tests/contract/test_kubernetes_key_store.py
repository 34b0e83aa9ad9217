"""The key store in Kubernetes Secrets, over HTTP: a stand-in of the API server, or a real one."""

import base64
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.errors import (
    KeyStoreConflictError,
    KeyStoreDamagedError,
    KeyStoreError,
    KeyStoreUnavailableError,
)
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import PRIMARY_VARIABLE
from keyrotation_pipeline_tests.clusters import (
    CHANGING,
    LAST_APPLIED,
    Exchange,
    Once,
    TestKeySecrets,
    exchanging,
    refusing,
    timing_out_after_the_effect,
)
from keyrotation_pipeline_tests.contract.key_store import (
    CHANGES,
    V1,
    V2,
    V3,
    V4,
    Change,
    KeyStoreContract,
    Place,
    Shape,
    add,
    archive,
    destroy,
    filled,
    key,
    restore,
    set_primary,
    shape,
)

FIRST, SECOND = "ENCRYPTION_MASTER_KEY", "ENCRYPTION_MASTER_KEY_V2"


class TestKubernetesKeyStore(KeyStoreContract):
    @pytest.fixture
    def new_place(self, new_key_secrets: Callable[[], TestKeySecrets]) -> Callable[[], Place]:
        return new_key_secrets


@pytest.fixture
def secrets(new_key_secrets: Callable[[], TestKeySecrets]) -> TestKeySecrets:
    return new_key_secrets()


# --- what lies there ------------------------------------------------------------------------------------------------


def test_entries_are_the_variables_of_applications_and_what_others_keep_there_stays(secrets: TestKeySecrets) -> None:
    mine = {"annotations": {"team": "clinic"}, "labels": {"app": "pazpaz"}}
    secrets.overwrite({FIRST: base64_of(key(1)), "PEPPER": "x"}, metadata=mine)
    store = secrets.open()
    assert shape(store.read()) == ((V1,), (), None)
    set_primary(store, V1)
    add(store, V2, key(2))
    set_primary(store, V2)
    archive(store, V1)
    assert secrets.entries() == {SECOND: base64_of(key(2)), PRIMARY_VARIABLE: "v2", "PEPPER": "x"}
    assert secrets.entries(secrets.archive) == {"v1": base64_of(key(1))}
    metadata = secrets.secret()["metadata"]
    assert {name: metadata[name] for name in mine} == mine


def test_people_who_look_at_a_secret_read_what_its_keys_are(secrets: TestKeySecrets) -> None:
    store = secrets.open()
    add(store, V1, key(1))
    add(store, V2, key(2))
    store.set_primary(V2, store.read().revision, "Encryption key v2 (rotated 2026-01-05), authorised by Ada")
    store.archive(V1, store.read().revision, "Archived key v1 (rotated 2026-01-05), authorised by Ada")
    live, archived = (secrets.secret(name)["metadata"]["annotations"] for name in (secrets.name, secrets.archive))
    assert live["keyrotation/description"] == "Encryption key v2 (rotated 2026-01-05), authorised by Ada"
    assert archived["keyrotation/description-v1"] == "Archived key v1 (rotated 2026-01-05), authorised by Ada"


@pytest.mark.parametrize(
    ("applied", "stays"),
    [
        pytest.param({"data": {FIRST: base64.b64encode(base64_of(key(1)).encode()).decode()}}, False, id="data"),
        pytest.param({"stringData": {FIRST: base64_of(key(1))}}, False, id="stringData"),
        pytest.param({"data": {SECOND: "eA=="}}, True, id="without the old key"),
        pytest.param([base64_of(key(1))], False, id="of no known form"),
    ],
)
def test_what_kubectl_keeps_of_its_text_goes_with_the_old_key(
    secrets: TestKeySecrets, applied: object, stays: bool
) -> None:
    store = filled(secrets.open())
    text = json.dumps(applied)
    secrets.overwrite({}, metadata={"annotations": {LAST_APPLIED: text, "team": "clinic"}})
    for _ in range(2):
        archive(store, V1)
        assert secrets.secret()["metadata"]["annotations"] == {"team": "clinic"} | (
            {LAST_APPLIED: text} if stays else {}
        )
        # It is found again where the key itself is gone already.
        secrets.overwrite({}, metadata={"annotations": {LAST_APPLIED: text}})


def test_the_archive_keeps_a_restored_key_and_loses_a_destroyed_one(secrets: TestKeySecrets) -> None:
    store = filled(secrets.open())
    restore(store, V3)
    assert secrets.entries(secrets.archive) == {"v3": base64_of(key(3))}
    archive(store, V3)
    destroy(store, V3)
    assert secrets.entries(secrets.archive) == {}


def test_a_live_key_whose_archive_holds_another_one_is_neither_archived_nor_added(secrets: TestKeySecrets) -> None:
    store = filled(secrets.open())
    secrets.overwrite({"v1": base64_of(key(9))}, secrets.archive)
    with pytest.raises(KeyStoreDamagedError, match="holds something else as v1 than the key to be archived"):
        archive(store, V1)
    with pytest.raises(KeyStoreError, match="different key under v1"):
        add(store, V1, key(1))
    assert store.read().material(V1) == key(1)


def test_the_archive_may_be_in_a_namespace_of_its_own(secrets: TestKeySecrets) -> None:
    from keyrotation_pipeline.adapters.cluster import Access  # noqa: PLC0415
    from keyrotation_pipeline.adapters.keystores.kubernetes import KeySecrets, KubernetesKeyStore  # noqa: PLC0415
    from keyrotation_pipeline.adapters.keystores.kubernetes_secrets import SecretName  # noqa: PLC0415

    cluster, apart = secrets.cluster, f"{secrets.cluster.namespace}-archive"
    live, archived = SecretName(cluster.namespace, secrets.name), SecretName(apart, "archive")
    store = KubernetesKeyStore(KeySecrets(live, archived, Access(secrets.kubeconfig)), SystemClock())
    with pytest.raises(KeyStoreDamagedError, match=f"there is no namespace {apart}; correct"):
        store.create()
    cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": apart}})
    try:
        store.create()
        filled(store)
        assert set(cluster.ask("GET", f"/api/v1/namespaces/{apart}/secrets/archive")["data"]) == {"v3"}
        assert secrets.entries(secrets.archive) == {}
    finally:
        cluster.ask("DELETE", f"/api/v1/namespaces/{apart}")


def test_both_secrets_are_made_where_they_are_missing(secrets: TestKeySecrets) -> None:
    filled(secrets.open())
    secrets.delete()
    assert not secrets.open().exists()
    secrets.open().create()
    assert shape(secrets.open().read()) == ((), (V3,), None)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(lambda s: s.delete(), r"there is no Secret pazpaz-.*`keyrotation restore-key`", id="deleted"),
        pytest.param(lambda s: s.delete(s.archive), r"there is no Secret pazpaz-.*-archive in", id="no archive"),
        pytest.param(
            lambda s: s.overwrite({"ENCRYPTION_MASTER_KEY_V02": "x"}), f"call it {SECOND}", id="a misnamed entry"
        ),
        pytest.param(lambda s: s.overwrite({PRIMARY_VARIABLE: "2"}), "does not name a key version", id="primary"),
    ],
)
def test_what_cannot_be_right_is_damaged(
    secrets: TestKeySecrets, spoil: Callable[[TestKeySecrets], None], sentence: str
) -> None:
    store = filled(secrets.open())
    spoil(secrets)
    with pytest.raises(KeyStoreDamagedError, match=sentence):
        store.read()


@pytest.mark.parametrize("of_archive", [False, True], ids=["live", "archive"])
def test_an_immutable_secret_is_read_and_refuses_the_first_change(secrets: TestKeySecrets, of_archive: bool) -> None:
    store = filled(secrets.open())
    secrets.overwrite({}, secrets.archive if of_archive else "", immutable=True)
    assert shape(store.read()) == ((V1, V2), (V3,), V2)
    with pytest.raises(KeyStoreError, match=r"is immutable, so no key can be added .* without `immutable: true`"):
        add(store, V4, key(4))


def test_more_than_a_secret_holds_is_refused(secrets: TestKeySecrets) -> None:
    secrets.overwrite({"OTHER": "x" * (1024 * 1024 - 20)})
    with pytest.raises(KeyStoreError, match=r"refuses this change of Secret pazpaz-.*\(HTTP 422\)"):
        add(secrets.open(), V1, key(1))


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (401, "does not know who wants to read Secret pazpaz-.*renew the credentials, and try again"),
        (403, "forbids this account to read Secret pazpaz-.*Role in deploy/kubernetes.*try again"),
        (429, "throttles calls that read Secret pazpaz-.*try again"),
        (500, r"fails to read Secret pazpaz-.*\(HTTP 500\).*try again"),
    ],
)
def test_what_the_cluster_refuses_is_unavailable_and_its_own_text_is_not_shown(
    secrets: TestKeySecrets, status: int, sentence: str
) -> None:
    store = filled(secrets.open())
    with exchanging(refusing(status)), pytest.raises(KeyStoreUnavailableError, match=sentence) as caught:
        store.read()
    assert "SECRET-TEXT" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(None, "no cluster is configured; name a kubeconfig", id="no file"),
        pytest.param("a: b: c", "no cluster is configured; name a kubeconfig", id="no YAML"),
        pytest.param("http://127.0.0.1:9", "does not answer .*check its address", id="nobody there"),
    ],
)
def test_a_cluster_that_cannot_be_found_is_unavailable(
    secrets: TestKeySecrets, tmp_path: Path, content: str | None, sentence: str
) -> None:
    from keyrotation_pipeline_tests.clusters import write_kubeconfig  # noqa: PLC0415

    path = tmp_path / "kubeconfig"
    if content is not None and content.startswith("http"):
        write_kubeconfig(path, content, "x")
    elif content is not None:
        path.write_text(content)
    lost = TestKeySecrets(secrets.cluster, secrets.name, path)
    with (
        exchanging(lambda _pool, _method, _path, send: send()),
        pytest.raises(KeyStoreUnavailableError, match=sentence),
    ):
        lost.open().read()


def test_without_settings_the_cluster_is_that_of_the_pod_else_that_of_kubeconfig(
    secrets: TestKeySecrets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if secrets.cluster.standin is None:
        pytest.skip("needs a cluster whose certificate and token are at hand")
    from kubernetes.config import incluster_config, kube_config  # noqa: PLC0415

    from keyrotation_pipeline.adapters.cluster import SECRET, Access, Cluster  # noqa: PLC0415

    def found() -> str:
        content = Cluster(Access(), SystemClock()).get(SECRET, secrets.cluster.namespace, secrets.name)
        return str(content["metadata"]["name"])

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(secrets.kubeconfig))
    assert found() == secrets.name

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    (tmp_path / "token").write_text("admin")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(secrets.kubeconfig.with_name("certificate.pem")))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(secrets.cluster.standin.port))
    assert found() == secrets.name


def test_no_log_shows_a_key(secrets: TestKeySecrets, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = filled(secrets.open())
    archive(store, V1)
    shown = caplog.text + str(store.read())
    for number in (1, 2, 3):
        text = base64_of(key(number))
        assert text not in shown
        assert base64.b64encode(text.encode()).decode() not in shown


# --- each call fails once, at the level of HTTP ---------------------------------------------------------------------


@pytest.mark.parametrize("fault", [refusing(500), refusing(429), timing_out_after_the_effect])
@pytest.mark.parametrize(("change", "after"), CHANGES)
def test_a_change_any_of_whose_calls_fails_once_ends_right(
    new_key_secrets: Callable[[], TestKeySecrets], change: Change, after: Shape, fault: Exchange
) -> None:
    for moment in range(1, 10):
        store = filled(new_key_secrets().open())
        decided = store.read().revision
        once = Once(moment, fault)
        with exchanging(once):
            done = change(store, decided)
        assert shape(done) == after
        assert all(done.material(version) == key(version.number) for version in done.versions)
        if not once.hit:
            break
    assert moment > 1


def test_a_writer_that_lost_the_race_fails(secrets: TestKeySecrets) -> None:
    store = filled(secrets.open())
    decided = store.read().revision
    overtaken: list[str] = []

    def overtake(_pool: object, method: str, path: str, send: Callable[[], object]) -> object:
        if method in CHANGING and not overtaken:
            overtaken.append(path)
            add(secrets.open(), V4, key(4))
        return send()

    with exchanging(overtake), pytest.raises(KeyStoreConflictError):
        store.set_primary(V1, decided)
    assert shape(store.read()) == ((V1, V2, V4), (V3,), V2)


def test_both_secrets_are_read_as_they_stood_together(secrets: TestKeySecrets) -> None:
    store = filled(secrets.open())
    moved: list[str] = []

    def move(_pool: object, method: str, path: str, send: Callable[[], object]) -> object:
        if path.endswith("-archive") and not moved:
            moved.append(path)
            archive(secrets.open(), V1)
        return send()

    with exchanging(move):
        read = store.read()
    assert shape(read) == ((V2,), (V1, V3), V2)
