"""A whole walk with keys in AWS, in which each call fails once, in each way, at the wire."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline_tests.aws_secrets import CHANGING, TestSecret, operation_of
from keyrotation_pipeline_tests.contract.faulty_walk import EachPoint, assert_ended_right, walk, world_with
from keyrotation_pipeline_tests.contract.key_store import V2
from keyrotation_pipeline_tests.fakes import FakeWorld
from keyrotation_pipeline_tests.unit.rotation.requests import approved

CHANGED = ("PutSecretValue", "UpdateSecretVersionStage", "CreateSecret", "TagResource")
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


def keys_ever_put(secret: TestSecret, name: str) -> set[str]:
    """What every version of the live secret held under a name, those included that no label names."""
    listed = secret.client.list_secret_version_ids(SecretId=secret.name, IncludeDeprecated=True)["Versions"]
    texts = [json.loads(secret.text(VersionId=each["VersionId"])) for each in listed]
    return {text[name] for text in texts if name in text}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore waits before a retry, and once throttled it sends at half a request a second."""
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _seconds: None)
    monkeypatch.setattr("botocore.retries.bucket.TokenBucket.acquire", lambda *_arguments, **_options: True)


@contextmanager
def failing(fails: Callable[[str], bool], answer: Answer) -> Iterator[None]:
    """Inside, the requests whose operation `fails` says so go as `answer` has it."""
    from botocore.httpsession import URLLib3Session  # noqa: PLC0415

    real = URLLib3Session.send

    def send(session: Any, request: Any) -> Any:  # noqa: ANN401 - botocore's
        if fails(operation_of(request)):
            return answer(request, lambda: real(session, request))
        return real(session, request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(URLLib3Session, "send", send)
        yield


def assert_right(world: FakeWorld, request: str, secret: TestSecret) -> None:
    assert_ended_right(world, request)
    second = base64_of(world.pipeline.keys.read().material(V2))
    assert keys_ever_put(secret, "v2") == {second}, "never a second key"
    assert len(secret.archives()) == 1


@pytest.mark.extended
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        pytest.param(timing_out_after_the_effect, False, id="a time-out after the effect"),
        pytest.param(refusing(400, "AccessDeniedException"), True, id="no access"),
    ],
)
def test_a_walk_ends_right_whichever_change_fails_once(
    new_secret: Callable[[], TestSecret], answer: Answer, refused: bool
) -> None:
    failed: list[str] = []
    for moment in range(1, 40):
        secret = new_secret()
        world = world_with(secret.open())
        rotation = approved(world)
        calls, before = iter(range(1, moment)), len(failed)

        def is_it(operation: str, calls: Iterator[int] = calls, before: int = before) -> bool:
            it_is = operation in CHANGING and len(failed) == before and next(calls, None) is None
            failed.extend([operation] * it_is)
            return it_is

        with failing(is_it, answer):
            refusals = walk(world, rotation.id)
        if len(failed) == before:
            break
        assert refusals == int(refused)
        assert_right(world, rotation.id, secret)
    assert set(failed) == set(CHANGED)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        pytest.param(refusing(500, "InternalServiceError"), False, id="an error", marks=pytest.mark.extended),
        pytest.param(refusing(400, "ThrottlingException"), False, id="throttled", marks=pytest.mark.extended),
        pytest.param(timing_out_after_the_effect, False, id="a time-out after the effect"),
        pytest.param(refusing(400, "AccessDeniedException"), True, id="no access"),
    ],
)
def test_a_walk_ends_right_though_each_call_fails_at_its_first_time(
    new_secret: Callable[[], TestSecret], answer: Answer, refused: bool
) -> None:
    """Those that only read too, each from every place that makes it."""
    secret = new_secret()
    world = world_with(secret.open())
    rotation, each = approved(world), EachPoint()
    with failing(each.is_new, answer):
        refusals = walk(world, rotation.id)
    assert_right(world, rotation.id, secret)
    assert refusals == (len(each.points) if refused else 0)
    assert set(each.points.values()) >= {"GetSecretValue", "DescribeSecret", "ListSecrets", *CHANGED}
    assert len(each.points) > 30
