"""The fake rollout and the one over the instances table pass the same suite."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.rollouts.reported import ReportedInstances
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.fleet import Instance, RolloutMode
from keyrotation_pipeline_tests.contract.rollout_suite import READ_V2, V1, V2, RolloutSuite, Stage, told_nothing
from keyrotation_pipeline_tests.fakes import FakeClock, FakeKeyStore, FakeRollout

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
            if each.name != name or seconds < timedelta(days=1).total_seconds()
        )


@dataclass
class TableStage:
    """Rows of keyrotation.application_instances."""

    connection: Connection

    def rollout(self, mode: RolloutMode, timeout_seconds: float) -> ReportedInstances:
        return ReportedInstances(self.connection, mode, TTL_SECONDS, timeout_seconds, SystemClock())

    def says(self, name: str, reads: Sequence[KeyVersion], writes: KeyVersion) -> None:
        self.withdraws(name)
        self.connection.execute(
            "INSERT INTO keyrotation.application_instances (instance, reads, writes, names_primary)"
            " VALUES (%s, %s, %s, true)",
            (name, [str(version) for version in reads], str(writes)),
        )

    def withdraws(self, name: str) -> None:
        self.connection.execute("DELETE FROM keyrotation.application_instances WHERE instance = %s", (name,))

    def is_silent(self, name: str, seconds: int) -> None:
        self.connection.execute(
            "UPDATE keyrotation.application_instances SET reported_at = now() - make_interval(secs => %s)"
            " WHERE instance = %s",
            (seconds, name),
        )


class TestFakeRollout(RolloutSuite):
    @pytest.fixture
    def stage(self) -> Stage:
        return FakeStage()


class TestReportedInstances(RolloutSuite):
    @pytest.fixture
    def stage(self, migrated: Connection) -> Stage:
        return TableStage(migrated)

    def test_a_report_that_does_not_say_so_names_no_primary(self, migrated: Connection) -> None:
        migrated.execute(
            "INSERT INTO keyrotation.application_instances (instance, reads, writes) VALUES ('web-1', '{v1}', 'v1')"
        )
        [seen] = TableStage(migrated).rollout(RolloutMode.ATTEST, 0).instances()
        assert not seen.names_primary

    def test_who_was_not_heard_of_for_a_month_is_forgotten(self, migrated: Connection) -> None:
        stage = TableStage(migrated)
        for name, days in (("web-1", 0), ("web-2", 20), ("web-3", 31)):
            stage.says(name, (V1, V2), V1)
            stage.is_silent(name, days * 24 * 3600)
        stage.rollout(RolloutMode.ATTEST, 0).roll_out(READ_V2, lambda _instances: None, told_nothing)
        kept = migrated.execute("SELECT instance FROM keyrotation.application_instances ORDER BY 1").fetchall()
        assert kept == [("web-1",), ("web-2",)]
