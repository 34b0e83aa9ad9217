"""A whole walk with keys in AWS, in which each call that changes something fails once, in each way, at the wire."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from keyrotation_pipeline.errors import KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.model.request import RequestStatus
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.rotation import performing
from keyrotation_pipeline_tests.aws_secrets import CHANGING, TestSecret, operation_of
from keyrotation_pipeline_tests.contract.key_store import V1, V2, add, set_primary, shape
from keyrotation_pipeline_tests.fakes import FakeRollout, FakeWorld
from keyrotation_pipeline_tests.unit.rotation.requests import approved, before_any_rotation

Answer = Callable[[Any, Callable[[], Any]], Any]


class Raw:
    """The body of an answer, as botocore reads it."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def stream(self, *_arguments: object) -> list[bytes]:
        return [self.body]


def refusing(status: int, code: str) -> Answer:
    def answer(request: Any, _send: Callable[[], Any]) -> Any:  # noqa: ANN401 - botocore's
        from botocore.awsrequest import AWSResponse  # noqa: PLC0415

        body = json.dumps({"__type": code, "message": "not now"}).encode()
        return AWSResponse(request.url, status, {"x-amzn-errortype": code}, Raw(body))  # type: ignore[arg-type]

    return answer


def timing_out_after_the_effect(request: Any, send: Callable[[], Any]) -> Any:  # noqa: ANN401 - botocore's
    from botocore.exceptions import ReadTimeoutError  # noqa: PLC0415

    send()
    raise ReadTimeoutError(endpoint_url=request.url)


class Following:
    """What an instance of the application gets."""

    def __init__(self, store: KeyStore) -> None:
        self.store = store

    @property
    def live(self) -> tuple[KeyVersion, ...]:
        return tuple(self.store.read().live)

    @property
    def primary_version(self) -> KeyVersion | None:
        return self.store.read().primary


def world_in(secret: TestSecret) -> FakeWorld:
    """Before any rotation, with the keys of the fake world in AWS."""
    world = before_any_rotation()
    store = secret.open()
    add(store, V1, world.keys.get(V1))
    set_primary(store, V1)
    rollout = FakeRollout(Following(store), world.clock)  # type: ignore[arg-type]
    return replace(world, pipeline=replace(world.pipeline, keys=store, rollout=rollout))


def walk(world: FakeWorld, request: str) -> int:
    """Run it to its end, again after each refusal as the conductor does; gives back how often it was refused."""
    for refusals in count():
        try:
            list(performing.run(world.pipeline, request, world.report))
        except KeyStoreUnavailableError:
            continue
        return refusals
    raise AssertionError


def keys_ever_put(secret: TestSecret, name: str) -> set[str]:
    """What every version of the live secret held under a name, those included that no label names."""
    listed = secret.client.list_secret_version_ids(SecretId=secret.name, IncludeDeprecated=True)["Versions"]
    texts = [json.loads(secret.text(VersionId=each["VersionId"])) for each in listed]
    return {text[name] for text in texts if name in text}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        pytest.param(refusing(500, "InternalServiceError"), False, id="an error"),
        pytest.param(refusing(400, "ThrottlingException"), False, id="throttled"),
        pytest.param(timing_out_after_the_effect, False, id="a time-out after the effect"),
        pytest.param(refusing(400, "AccessDeniedException"), True, id="no access"),
    ],
)
def test_a_walk_ends_right_whichever_call_fails_once(
    new_secret: Callable[[], TestSecret], monkeypatch: pytest.MonkeyPatch, answer: Answer, refused: bool
) -> None:
    from botocore.httpsession import URLLib3Session  # noqa: PLC0415

    real = URLLib3Session.send
    # botocore waits before a retry, and once throttled it sends at half a request a second.
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _seconds: None)
    monkeypatch.setattr("botocore.retries.bucket.TokenBucket.acquire", lambda *_arguments, **_options: True)
    failed: list[str] = []
    for moment in range(1, 40):
        secret = new_secret()
        world = world_in(secret)
        rotation = approved(world)
        calls, before = iter(range(1, moment)), len(failed)

        def send(session: Any, request: Any, calls: Any = calls, before: int = before) -> Any:  # noqa: ANN401
            operation = operation_of(request)
            if operation in CHANGING and len(failed) == before and next(calls, None) is None:
                failed.append(operation)
                return answer(request, lambda: real(session, request))
            return real(session, request)

        with monkeypatch.context() as patch:
            patch.setattr(URLLib3Session, "send", send)
            refusals = walk(world, rotation.id)
        if len(failed) == before:
            break
        assert refusals == int(refused)
        assert world.ledger.request(rotation.id).status is RequestStatus.FINISHED
        stored = world.pipeline.keys.read()
        assert shape(stored) == ((V2,), (V1,), V2)
        assert stored.material(V1) == world.keys.get(V1)
        assert keys_ever_put(secret, "v2") == {base64_of(stored.material(V2))}, "never a second key"
        assert len(secret.archives()) == 1
    assert set(failed) == {"PutSecretValue", "UpdateSecretVersionStage", "CreateSecret", "TagResource"}
