"""The key stores that there are, each losing its keys."""

from collections.abc import Callable
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.clusters import TestKeySecrets
from keyrotation_pipeline_tests.contract.key_loss import KeyLossContract
from keyrotation_pipeline_tests.fakes import FakeKeyStore


class TestFakeKeyStoreLoses(KeyLossContract):
    @pytest.fixture
    def open_store(self) -> Callable[[], KeyStore]:
        store = FakeKeyStore({}, None)
        return lambda: store


class TestFileKeyStoreLoses(KeyLossContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], KeyStore]:
        return lambda: FileKeyStore.create(tmp_path / "keys")


class TestAwsKeyStoreLoses(KeyLossContract):
    @pytest.fixture
    def open_store(self, new_secret: Callable[[], TestSecret]) -> Callable[[], KeyStore]:
        """The secret was deleted, and made again as `restore-key` does."""
        secret = new_secret()
        secret.client.delete_secret(SecretId=secret.name, ForceDeleteWithoutRecovery=True)
        secret.open().create()
        return secret.open


class TestKubernetesKeyStoreLoses(KeyLossContract):
    @pytest.fixture
    def open_store(self, new_key_secrets: Callable[[], TestKeySecrets]) -> Callable[[], KeyStore]:
        """Both Secrets were deleted, and made again as `restore-key` does."""
        secrets = new_key_secrets()
        for name in (secrets.name, secrets.archive):
            secrets.delete(name)
        secrets.open().create()
        return secrets.open
