"""The key stores that there are, each losing its keys."""

from collections.abc import Callable
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.ports.keys import KeyStore
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
