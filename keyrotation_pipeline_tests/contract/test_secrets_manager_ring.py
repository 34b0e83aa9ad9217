"""A key ring that an application reads from AWS Secrets Manager itself, over HTTP against moto's server."""

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from keyrotation_pipeline.encrypted_type import SecretsManagerKeyRing, environment
from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline_tests.aws_secrets import TestSecret, watched
from keyrotation_pipeline_tests.contract.key_store import V1, V2, add, archive, key, set_primary

ONE, TWO = base64_of(key(1)), base64_of(key(2))


@pytest.fixture
def secret(new_secret: Callable[[], TestSecret]) -> TestSecret:
    secret = new_secret()
    add(secret.open(), V1, key(1))
    set_primary(secret.open(), V1)
    return secret


def test_it_is_what_the_key_store_holds_at_each_step_of_a_rotation(secret: TestSecret) -> None:
    keys, store = SecretsManagerKeyRing(secret.client, secret.name, every_seconds=0), secret.open()
    assert (keys().versions, keys().primary) == ((V1,), V1)
    add(store, V2, key(2))
    assert keys().versions == (V1,), "until it is reloaded"
    assert (keys.reload().versions, keys().primary) == ((V1, V2), V1)
    set_primary(store, V2)
    assert keys.reload().primary == V2
    store.publish_compromised(frozenset({V1}), store.read().revision)
    assert keys.reload().versions == (V1, V2)
    archive(store, V1)
    assert keys.reload().versions == keys().versions == (V2,)
    assert keys().material(V2) == key(2)


def test_it_asks_aws_once_however_often_it_is_used_and_reloaded(secret: TestSecret) -> None:
    keys, asked = SecretsManagerKeyRing(secret.client, secret.name), list[str]()
    with watched(asked.append):
        for _ in range(3):
            assert keys() is keys.reload()
    assert asked == ["GetSecretValue"]


@pytest.mark.parametrize("content", ["no JSON", b"\x00"])
def test_it_asks_aws_once_however_often_it_is_used_before_the_first_success(
    secret: TestSecret, content: str | bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, now = json.dumps({"v1": ONE, "primary": "v1"}), [1_000.0]
    monkeypatch.setattr(environment, "time", SimpleNamespace(monotonic=lambda: now[0]))
    keys, asked, asked_at = SecretsManagerKeyRing(secret.client, secret.name), list[str](), list[float]()
    secret.overwrite(content)
    with watched(asked.append):
        for at in range(0, 1_000, 5):
            now[0] = 1_000.0 + at
            with pytest.raises(InvalidKeyError, match="secret "):
                keys()
            if asked:
                asked_at.append(at)
                asked.clear()
    assert asked_at == [0, 5, 15, 35, 75, 155, 315, 615, 915]
    secret.overwrite(good)
    now[0] += 300
    assert keys().versions == (V1,)


def test_a_secret_that_names_a_compromised_primary_leaves_the_former_ring_in_use(secret: TestSecret) -> None:
    keys = SecretsManagerKeyRing(secret.client, secret.name, every_seconds=0)
    add(secret.open(), V2, key(2))
    set_primary(secret.open(), V2)
    keys()
    secret.overwrite(json.dumps({"v1": ONE, "v2": TWO, "primary": "v1", "compromised": "v1"}))
    with pytest.raises(InvalidKeyError, match="v1 is compromised, so nothing is encrypted under it again"):
        keys.reload()
    assert keys().primary == V2


def test_the_source_procedures_plain_key_is_v1(secret: TestSecret) -> None:
    secret.overwrite(f"{ONE}\n")
    ring = SecretsManagerKeyRing(secret.client, secret.name)()
    assert (ring.versions, ring.primary, ring.material(V1)) == ((V1,), V1, key(1))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(json.dumps({"v1": ONE, "v2": "no key", "primary": "v1"}), "entry v2 of secret", id="no key"),
        pytest.param(json.dumps({"v1": ONE, "v2": None, "primary": "v1"}), "entry v2 of secret", id="null"),
        pytest.param(json.dumps({"v1": ONE, "v2": TWO}), "none is the primary", id="no primary"),
        pytest.param(json.dumps({"v1": ONE, "primary": "v2"}), "v2 is not set|is not set", id="a primary without key"),
        pytest.param("no JSON", "is not JSON of the form", id="no JSON"),
        pytest.param("[1]", "is not JSON of the form", id="a list"),
        pytest.param(b"\x00", "cannot be read from AWS", id="bytes"),
    ],
)
def test_a_secret_that_makes_no_ring_leaves_the_former_one_in_use(
    secret: TestSecret, content: str | bytes, sentence: str
) -> None:
    keys = SecretsManagerKeyRing(secret.client, secret.name, every_seconds=0)
    keys()
    secret.overwrite(content)
    with pytest.raises(InvalidKeyError, match=sentence) as refused:
        keys.reload()
    assert keys().material(V1) == key(1)
    assert not any(text in str(refused.value) for text in (ONE, TWO, "no key"))


def test_an_aws_that_does_not_answer_is_one_sentence(secret: TestSecret) -> None:
    keys = SecretsManagerKeyRing(secret.client, secret.name, every_seconds=0)
    with secret.unavailable(), pytest.raises(InvalidKeyError, match=r"cannot be read from AWS \(EndpointConnection"):
        keys()
    assert keys().versions == (V1,), "and read when it answers again"


def test_an_entry_of_others_is_left_alone(secret: TestSecret) -> None:
    secret.overwrite(json.dumps({"v1": ONE, "primary": "v1", "pepper": "x"}))
    assert SecretsManagerKeyRing(secret.client, secret.name)().versions == (V1,)
