"""What `RetirementEvidence` must do where a standby replicates. A test class inherits it, with a fixture `subject`."""

from typing import Protocol

import pytest

from keyrotation_pipeline.errors import BlockedError, FenceError
from keyrotation_pipeline.model.proof import SnapshotPosition
from keyrotation_pipeline_tests.contract.database_suite import CLIENTS, REQUEST, TABLES, V1, V2, V3, Row, Subject


class StandbySubject(Subject, Protocol):
    """A database with one standby, `reports`, which has replayed everything so far."""

    def lag(self) -> None:
        """It replays nothing from now on."""

    def drop_out(self) -> None:
        """It loses its connection, and serves its readers as before."""

    def come_back(self) -> None:
        """It is connected and has replayed everything."""

    def declare_gone(self) -> None:
        """The configuration says that it no longer exists."""

    def promote(self) -> None:
        """It becomes the primary, and the ports lead there."""

    def shown(self) -> list[Row]:
        """The table `clients` as its readers see it."""


class StandbySuite:
    @pytest.fixture
    def subject(self) -> StandbySubject:
        raise NotImplementedError

    def rotate(self, subject: Subject) -> SnapshotPosition:
        """Everything is under v3 and fenced; the moment after it."""
        for table in TABLES:
            subject.rewriting.sweep(REQUEST, table, subject.ring, V3, wait=False)
            subject.fencing.fence(table, [V1, V2])
        return SnapshotPosition(subject.evidence.current_xid(), subject.evidence.barrier())

    def require_refused(self, subject: Subject, moment: SnapshotPosition) -> None:
        (named,) = subject.evidence.snapshot_blockers(moment)
        assert "reports" in named
        with subject.transaction(), pytest.raises(BlockedError, match="reports"):
            subject.evidence.zero_old_rows(TABLES, V1, [V1, V2], moment)

    def test_a_standby_that_lags_still_shows_old_values_and_refuses_the_evidence(self, subject: StandbySubject) -> None:
        subject.lag()
        moment = self.rotate(subject)
        assert subject.shown() == [{"first_name": "v1:Ada", "email": None}]
        self.require_refused(subject, moment)
        subject.come_back()
        assert subject.shown() == [{"first_name": "v3:Ada", "email": None}]
        assert subject.evidence.snapshot_blockers(moment) == ()
        with subject.transaction():
            (replica,) = subject.evidence.zero_old_rows(TABLES, V1, [V1, V2], moment).replicas
        assert ("reports" in replica.name, replica.replayed is None) == (True, False)

    def test_a_standby_that_dropped_out_is_not_forgotten_until_it_is_declared_gone(
        self, subject: StandbySubject
    ) -> None:
        subject.evidence.snapshot_blockers(SnapshotPosition(subject.evidence.current_xid(), subject.evidence.barrier()))
        subject.drop_out()
        moment = self.rotate(subject)
        assert subject.shown() == [{"first_name": "v1:Ada", "email": None}]
        self.require_refused(subject, moment)
        subject.declare_gone()
        with subject.transaction():
            (replica,) = subject.evidence.zero_old_rows(TABLES, V1, [V1, V2], moment).replicas
        assert ("reports" in replica.name, replica.replayed) == (True, None)

    def test_a_standby_that_is_promoted_without_the_last_writes_has_old_values_and_no_fence(
        self, subject: StandbySubject
    ) -> None:
        subject.drop_out()
        moment = self.rotate(subject)
        subject.promote()
        assert subject.read(CLIENTS) == [{"first_name": "v1:Ada", "email": None}]
        assert (subject.fencing.fences(CLIENTS), subject.fencing.old_rows(CLIENTS, [V1], None).rows) == ((), 1)
        subject.update(CLIENTS, 0, "email", subject.value(1, "stale"))
        with subject.transaction(), pytest.raises(FenceError):
            subject.evidence.zero_old_rows(TABLES, V1, [V1, V2], moment)
        again = self.rotate(subject)
        with subject.transaction():
            assert subject.evidence.zero_old_rows(TABLES, V1, [V1, V2], again).values == 2
