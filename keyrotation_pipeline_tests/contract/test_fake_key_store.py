from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Barrier

import pytest

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline_tests.contract.key_store import KeyStoreContract, Place
from keyrotation_pipeline_tests.contract.racing_writer import outcome
from keyrotation_pipeline_tests.fakes import FakeKeyStore


@dataclass
class FakePlace:
    store: FakeKeyStore = field(default_factory=lambda: FakeKeyStore({}, None))

    def open(self) -> FakeKeyStore:
        return self.store

    @contextmanager
    def dying(self, moment: int) -> Iterator[None]:
        self.store.journal.die_at = len(self.store.journal.entries) + moment - 1
        try:
            yield
        finally:
            self.store.journal.die_at = None

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        self.store.unavailable = "the fake key store does not answer; try again"
        yield
        self.store.unavailable = None

    def damage(self, version: KeyVersion, text: str) -> None:  # noqa: ARG002  it holds no texts
        self.store.broken.add(version)

    def spoil(self) -> None:
        self.store.damaged = "the fake key store is damaged; fix it"


class TestFakeKeyStore(KeyStoreContract):
    @pytest.fixture
    def new_place(self) -> Callable[[], Place]:
        return FakePlace

    def race(self, place: Place, versions: list[KeyVersion], revision: str) -> dict[KeyVersion, str]:
        """In threads: what is in this process is in no other."""
        start = Barrier(len(versions))

        def run(version: KeyVersion) -> str:
            start.wait()
            return outcome(place.open(), version, revision)

        with ThreadPoolExecutor(len(versions)) as pool:
            return dict(zip(versions, pool.map(run, versions), strict=True))
