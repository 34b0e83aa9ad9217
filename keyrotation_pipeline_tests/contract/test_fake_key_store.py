from collections.abc import Callable

import pytest

from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline_tests.contract.key_store import KeyStoreContract
from keyrotation_pipeline_tests.fakes import FakeKeyStore


class TestFakeKeyStore(KeyStoreContract):
    @pytest.fixture
    def open_store(self) -> Callable[[], KeyStore]:
        fake = FakeKeyStore({}, None)
        return lambda: fake
