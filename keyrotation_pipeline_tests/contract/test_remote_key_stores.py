"""The fake key store and those over HTTP pass the same suites of answers that are lost or late."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline_tests.aws_secrets import CHANGING as CHANGING_IN_AWS
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.clusters import CHANGING, TestKeySecrets, exchanging, timing_out_after_the_effect
from keyrotation_pipeline_tests.contract import test_aws_walk as aws
from keyrotation_pipeline_tests.contract.remote_key_store import (
    LateAnswersContract,
    LatePlace,
    LostAnswersContract,
    RemotePlace,
)
from keyrotation_pipeline_tests.contract.test_aws_walk import hasty  # noqa: F401
from keyrotation_pipeline_tests.contract.test_fake_key_store import FakePlace
from keyrotation_pipeline_tests.fakes import FakeKeyStore
from keyrotation_pipeline_tests.stale_secrets import FRESH, Stale, answering

SECONDS = 1.0


class RemoteFakePlace(FakePlace):
    @contextmanager
    def losing_answers(self) -> Iterator[None]:
        self.store.loses_answer = True
        yield


class RemoteSecret(TestSecret):
    @contextmanager
    def losing_answers(self) -> Iterator[None]:
        with aws.failing(lambda operation: operation in CHANGING_IN_AWS, aws.timing_out_after_the_effect):
            yield


class RemoteSecrets(TestKeySecrets):
    @contextmanager
    def losing_answers(self) -> Iterator[None]:
        def lose(pool: Any, method: str, path: str, send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
            return timing_out_after_the_effect(pool, method, path, send) if method in CHANGING else send()

        with exchanging(lose):
            yield


class TestFakeLosesAnswers(LostAnswersContract):
    @pytest.fixture
    def remote(self) -> RemotePlace:
        return RemoteFakePlace()


@pytest.mark.usefixtures("hasty")
class TestAwsLosesAnswers(LostAnswersContract):
    @pytest.fixture
    def remote(self, new_secret: Callable[[], TestSecret]) -> RemotePlace:
        made = new_secret()
        return RemoteSecret(made.name, made.url, made.client, made.variable)


class TestKubernetesLosesAnswers(LostAnswersContract):
    @pytest.fixture
    def remote(self, new_key_secrets: Callable[[], TestKeySecrets]) -> RemotePlace:
        made = new_key_secrets()
        return RemoteSecrets(made.cluster, made.name, made.kubeconfig, made.variable)


class Elsewhere:
    """The fake, for somebody whose reads are never late."""

    def __init__(self, store: FakeKeyStore) -> None:
        self.store = store

    def read(self) -> StoredKeys:
        return self.store.contents()

    def add(self, version: KeyVersion, material: KeyMaterial, revision: str) -> StoredKeys:
        shown = self.store.shown
        try:
            return self.store.add(version, material, revision)
        finally:
            self.store.shown = shown


class LateFakePlace(FakePlace):
    def elsewhere(self) -> KeyStore:
        return cast("KeyStore", Elsewhere(self.store))

    @contextmanager
    def late(self) -> Iterator[None]:
        self.store.be_late()
        yield


@dataclass
class LateSecret:
    """A secret behind a proxy that can be late."""

    secret: TestSecret
    stale: Stale

    def open(self) -> KeyStore:
        return self.secret.open()

    def elsewhere(self) -> KeyStore:
        return replace(self.secret, url=self.secret.url + FRESH).open()

    @contextmanager
    def late(self) -> Iterator[None]:
        self.stale.seconds = SECONDS
        yield


class TestFakeIsLate(LateAnswersContract):
    @pytest.fixture
    def late(self) -> LatePlace:
        return LateFakePlace()


class TestAwsIsLate(LateAnswersContract):
    @pytest.fixture
    def late(self, new_secret: Callable[[], TestSecret], monkeypatch: pytest.MonkeyPatch) -> Iterator[LatePlace]:
        monkeypatch.setattr("keyrotation_pipeline.adapters.keystores.secrets_manager.PAUSE_SECONDS", 0.1)
        there = new_secret()
        there.client.delete_secret(SecretId=there.name, ForceDeleteWithoutRecovery=True)
        stale = Stale(there.url, 0)
        with answering(stale) as url:
            secret = replace(there, url=url)
            secret.open().create()
            yield LateSecret(secret, stale)
