"""The fake rollout and the one over the instances table pass the same suite."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.rollouts.reported import ReportedInstances
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline_tests.contract.ledger_suite import ROSTER, rotation, text_of
from keyrotation_pipeline_tests.contract.rollout_suite import READ_V2, V1, V2, RolloutSuite, Stage, report_nothing
from keyrotation_pipeline_tests.fakes import FakeClock, FakeKeyStore, FakeRollout
from keyrotation_pipeline_tests.fakes.chain import good_at_start
from keyrotation_pipeline_tests.fakes.rollout import Process, Reported
from keyrotation_pipeline_tests.reports import INSERT, content, keys_of, proofs, report, report_before, store_of

TTL_SECONDS = 60


RING = KeyRing({V1: KeyMaterial.generate(), V2: KeyMaterial.generate()}, V1)


class FakeStage:
    """Processes in memory, whose time is the fake clock's."""

    def __init__(self) -> None:
        self.keys = store_of(RING)
        self.fake = FakeRollout(self.keys, FakeClock(), running=(), ttl_seconds=TTL_SECONDS)
        self.nonce: str | None = None

    def rollout(self, mode: RolloutMode, timeout_seconds: float) -> FakeRollout:
        self.fake.running = None if self.fake.processes else ()
        self.fake.mode, self.fake.timeout_seconds = mode, timeout_seconds
        return self.fake

    def opens(self, request: str) -> str:
        self.nonce = request
        return request

    def says(
        self,
        name: str,
        reads: Sequence[KeyVersion],
        writes: KeyVersion,
        holds: Sequence[KeyVersion] | None = None,
        nonce: str | None = None,
    ) -> None:
        self._says(name, reads, writes, self.fake.clock.at, holds, nonce)

    def _says(
        self,
        name: str,
        reads: Sequence[KeyVersion],
        writes: KeyVersion,
        at: datetime,
        holds: Sequence[KeyVersion] | None = None,
        nonce: str | None = None,
    ) -> None:
        held = {each: RING.material(each).fingerprint for each in ({*reads, writes} if holds is None else holds)}
        said = Reported(held, tuple(reads), writes, at, self.nonce if nonce is None else nonce)
        self.fake.processes[name] = Process(held, writes, said)

    def withdraws(self, name: str) -> None:
        self.fake.leave(name)

    def is_silent(self, name: str, seconds: int) -> None:
        said = self.fake.processes[name].reported
        assert said is not None
        self._says(name, said.reads, said.writes, self.fake.clock.at - timedelta(seconds=seconds))


@dataclass
class TableStage:
    """Rows of keyrotation.instance_reports, as instances write them."""

    connection: Connection
    keys: FakeKeyStore = field(default_factory=lambda: store_of(RING))
    said: dict[str, tuple[Sequence[KeyVersion], KeyVersion]] = field(default_factory=dict)

    def rollout(self, mode: RolloutMode, timeout_seconds: float) -> ReportedInstances:
        return ReportedInstances(self.connection, self.keys, mode, TTL_SECONDS, timeout_seconds, SystemClock())

    def opens(self, request: str) -> str:
        opened = rotation(id=request)
        identity = "clinic@localhost, system identifier 7"
        ledger = PostgresLedger(self.connection, SystemClock(), "tester", identity, good_at_start)
        ledger.pin_roster(ROSTER)
        ledger.open(opened, text_of(opened))
        return ledger.head().hash

    def says(
        self,
        name: str,
        reads: Sequence[KeyVersion],
        writes: KeyVersion,
        holds: Sequence[KeyVersion] | None = None,
        nonce: str | None = None,
    ) -> None:
        self.said[name] = (reads, writes)
        parts = {} if nonce is None else {"nonce": nonce}
        text = json.dumps({"names_primary": True, **content(self.connection, reads, writes), **parts})
        held = keys_of(RING, sorted({*reads, writes}) if holds is None else holds)
        self.connection.execute(INSERT, (name, text, proofs(name, text, held)))

    def withdraws(self, name: str) -> None:
        report(self.connection, RING, name, *self.said[name], farewell=True)

    def is_silent(self, name: str, seconds: int) -> None:
        report_before(self.connection, RING, name, seconds, *self.said[name])


class TestFakeRollout(RolloutSuite):
    @pytest.fixture
    def stage(self) -> Stage:
        return FakeStage()


class TestReportedInstances(RolloutSuite):
    @pytest.fixture
    def stage(self, migrated: Connection) -> Stage:
        return TableStage(migrated)

    def test_a_report_that_does_not_say_so_names_no_primary(self, migrated: Connection) -> None:
        report(migrated, RING, "web-1", (V1,), V1, names_primary=False)
        [seen] = TableStage(migrated).rollout(RolloutMode.ATTEST, 0).instances()
        assert not seen.names_primary

    def test_the_reports_of_an_instance_that_said_farewell_are_deleted(self, migrated: Connection) -> None:
        stage = TableStage(migrated)
        for name in ("web-1", "web-2"):
            stage.says(name, (V1, V2), V1)
        stage.withdraws("web-1")
        stage.rollout(RolloutMode.ATTEST, 0).roll_out(READ_V2, lambda _instances: None, report_nothing)
        assert migrated.execute("SELECT instance FROM keyrotation.instance_reports").fetchall() == [("web-2",)]
