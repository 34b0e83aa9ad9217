"""The fake rollout and the one over the instances table pass the same suite."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.rollouts.reported import ReportedInstances
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.fleet import Instance, RolloutMode
from keyrotation_pipeline_tests.contract.rollout_suite import READ_V2, V1, V2, RolloutSuite, Stage, report_nothing
from keyrotation_pipeline_tests.fakes import FakeClock, FakeKeyStore, FakeRollout
from keyrotation_pipeline_tests.reports import report, report_before, store_of

TTL_SECONDS = 60


class FakeStage:
    """Instances in memory; a silence is what the test says it is."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.fake = FakeRollout(FakeKeyStore({}, None), self.clock, running=())

    def rollout(self, mode: RolloutMode, timeout_seconds: float) -> FakeRollout:
        self.fake.mode, self.fake.timeout_seconds = mode, timeout_seconds
        return self.fake

    def says(self, name: str, reads: Sequence[KeyVersion], writes: KeyVersion) -> None:
        self.withdraws(name)
        self.fake.running = (*self.fake.instances(), Instance(name, tuple(reads), writes, self.clock.at))

    def withdraws(self, name: str) -> None:
        self.fake.running = tuple(each for each in self.fake.instances() if each.name != name)

    def is_silent(self, name: str, seconds: int) -> None:
        heard_at = self.clock.at - timedelta(seconds=seconds)
        self.fake.running = tuple(
            replace(each, reported_at=heard_at, silent=seconds >= TTL_SECONDS) if each.name == name else each
            for each in self.fake.instances()
        )


RING = KeyRing({V1: KeyMaterial.generate(), V2: KeyMaterial.generate()}, V1)


@dataclass
class TableStage:
    """Rows of keyrotation.instance_reports, as honest instances write them."""

    connection: Connection
    said: dict[str, tuple[Sequence[KeyVersion], KeyVersion]] = field(default_factory=dict)

    def rollout(self, mode: RolloutMode, timeout_seconds: float) -> ReportedInstances:
        return ReportedInstances(self.connection, store_of(RING), mode, TTL_SECONDS, timeout_seconds, SystemClock())

    def says(self, name: str, reads: Sequence[KeyVersion], writes: KeyVersion) -> None:
        self.said[name] = (reads, writes)
        report(self.connection, RING, name, reads, writes)

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
