"""Secrets Manager over HTTP for tests: moto's server, and one secret a test, at which calls can fail."""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.keystores.key_list import KeyList
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import BARE_KEYS, KeyNotation
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.seal import Seal
from keyrotation_pipeline_tests.buckets import CREDENTIALS, REGION
from keyrotation_pipeline_tests.fakes import ProcessKilled

if TYPE_CHECKING:
    from keyrotation_pipeline.adapters.keystores.aws import AwsKeyStore

CHANGING = ("CreateSecret", "PutSecretValue", "UpdateSecretVersionStage", "TagResource", "UntagResource")
_SEND = "botocore.httpsession.URLLib3Session.send"
_numbers = itertools.count()


@dataclass(frozen=True)
class TestSecret:
    """A secret, a client that looks past our adapter, and the adapter.

    Args:
        variable, notation: of the application's own list; see `KeyList`.
    """

    __test__ = False
    name: str
    url: str
    client: Any
    variable: str | None = None
    notation: KeyNotation = BARE_KEYS

    @property
    def region(self) -> str:
        return REGION

    @property
    def prefix(self) -> str:
        return f"{self.name}-"

    def open(self) -> "AwsKeyStore":
        from keyrotation_pipeline.adapters.keystores.aws import AwsKeyStore, AwsSecret  # noqa: PLC0415

        name = self.variable
        listed = None if name is None else KeyList(name, f"entry {name} of secret {self.name}", self.notation)
        secret = AwsSecret(self.name, self.prefix, REGION, self.url, listed)
        return AwsKeyStore(secret, SystemClock())

    def sealed(self, seal: Seal) -> "AwsKeyStore":
        """The adapter, with keys under a seal."""
        from keyrotation_pipeline.adapters.keystores.aws import AwsKeyStore, AwsSecret  # noqa: PLC0415

        listed = None if self.variable is None else KeyList(self.variable, "its list", self.notation, sealed=True)
        return AwsKeyStore(AwsSecret(self.name, self.prefix, REGION, self.url, listed, seal=seal), SystemClock())

    def listed(self) -> str | None:
        """The application's own list."""
        text: str | None = json.loads(self.text()).get(self.variable)
        return text

    def change_list(self, text: str | None) -> None:
        """Change it past our adapter; None: take it away."""
        entries = {name: value for name, value in json.loads(self.text()).items() if name != self.variable}
        self.overwrite(json.dumps(entries if text is None else {**entries, str(self.variable): text}))

    def text(self, name: str | None = None, **which: str) -> str:
        which = which or {"VersionStage": "AWSCURRENT"}
        return str(self.client.get_secret_value(SecretId=name or self.name, **which)["SecretString"])

    def overwrite(self, content: str | bytes) -> None:
        """As `put-secret-value` in AWS: moto leaves AWSCURRENT where it was if it was ever moved."""
        form = {"SecretString": content} if isinstance(content, str) else {"SecretBinary": content}
        current = self.client.get_secret_value(SecretId=self.name, VersionStage="AWSCURRENT")["VersionId"]
        made = self.client.put_secret_value(SecretId=self.name, VersionStages=["AWSPENDING"], **form)["VersionId"]
        for stage, move in (
            ("AWSCURRENT", {"MoveToVersionId": made, "RemoveFromVersionId": current}),
            ("AWSPENDING", {"RemoveFromVersionId": made}),
        ):
            self.client.update_secret_version_stage(SecretId=self.name, VersionStage=stage, **move)

    def archives(self) -> list[str]:
        listed = self.client.list_secrets(Filters=[{"Key": "name", "Values": [self.prefix]}])["SecretList"]
        return sorted(each["Name"] for each in listed if "-archived-" in each["Name"])

    @contextmanager
    def dying(self, moment: int) -> Iterator[None]:
        calls = iter(range(1, moment))

        def die(operation: str) -> None:
            if operation in CHANGING and next(calls, None) is None:
                raise ProcessKilled(operation)

        with watched(die):
            yield

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        from botocore.exceptions import EndpointConnectionError  # noqa: PLC0415

        def refuse(_operation: str) -> None:
            raise EndpointConnectionError(endpoint_url=self.url)

        with watched(refuse), mock.patch("botocore.endpoint.time.sleep"):
            yield

    def damage(self, version: KeyVersion, text: str) -> None:
        self.overwrite(json.dumps({**json.loads(self.text()), str(version): text}))

    def spoil(self) -> None:
        self.overwrite("{")


@contextmanager
def watched(before: Callable[[str], None]) -> Iterator[None]:
    """Inside, `before` gets the operation of each request before it goes out, and may raise instead."""
    from botocore.httpsession import URLLib3Session  # noqa: PLC0415

    real = URLLib3Session.send

    def send(session: Any, request: Any) -> Any:  # noqa: ANN401 - botocore's
        before(operation_of(request))
        return real(session, request)

    with mock.patch(_SEND, send):
        yield


def operation_of(request: Any) -> str:  # noqa: ANN401 - botocore's
    target = request.headers["X-Amz-Target"]
    return (target.decode() if isinstance(target, bytes) else str(target)).rpartition(".")[2]


@pytest.fixture
def key_list() -> str | None:
    """The name of the application's own list in every store that is made; a module that wants one overrides it."""
    return None


@pytest.fixture
def new_secret(s3_url: str, monkeypatch: pytest.MonkeyPatch, key_list: str | None) -> Callable[[], TestSecret]:
    """Makes another secret, without a key, at each call; credentials are in the environment."""
    import boto3  # noqa: PLC0415

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("secretsmanager", endpoint_url=s3_url, region_name=REGION)

    def new() -> TestSecret:
        secret = TestSecret(f"pazpaz/encryption-key-{next(_numbers)}", s3_url, client, key_list)
        secret.open().create()
        return secret

    return new
