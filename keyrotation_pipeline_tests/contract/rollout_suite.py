"""What every `Rollout` must do. A test class inherits the suite and has a fixture `stage` of what it plays on."""

from collections.abc import Sequence
from typing import Protocol

import pytest

from keyrotation_pipeline.errors import BlockedError, PausedError, RolloutPendingError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.fleet import Gone, Instance, RolloutMode, RolloutTarget, TargetKind
from keyrotation_pipeline.model.pending import PendingCode, PendingReason
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.ports.rollout import Rollout

V1, V2 = KeyVersion(1), KeyVersion(2)
READ_V2 = RolloutTarget(TargetKind.READS, (V2,))


class Stage(Protocol):
    """A rollout, and what makes instances come, change and go in it; `keys` holds v1 and v2, and v1 is its primary."""

    @property
    def keys(self) -> KeyStore: ...

    def rollout(self, mode: RolloutMode, timeout_seconds: float) -> Rollout: ...

    def opens(self, request: str) -> str:
        """A request is opened; returns what reports name from then on."""

    def says(
        self,
        name: str,
        reads: Sequence[KeyVersion],
        writes: KeyVersion,
        holds: Sequence[KeyVersion] | None = None,
        nonce: str | None = None,
    ) -> None:
        """An instance reports; it holds what it says, and names what it is asked for, if not given."""

    def withdraws(self, name: str) -> None: ...

    def is_silent(self, name: str, seconds: int) -> None: ...


def report_nothing(done: int, total: int, reason: PendingReason | None) -> None:
    """A report that nobody reads."""


def lagging(instances: Sequence[Instance]) -> PendingReason | None:
    names = [each.name for each in instances if not READ_V2.met_by(each)]
    return (
        PendingReason(PendingCode.INSTANCES, "instances", f"{', '.join(names)} lags", "restart it") if names else None
    )


class RolloutSuite:
    @pytest.fixture
    def stage(self) -> Stage:
        raise NotImplementedError

    def test_an_instance_is_there_with_what_it_last_said(self, stage: Stage) -> None:
        stage.says("web-1", (V1,), V1)
        stage.says("web-1", (V1, V2), V2)
        [seen] = stage.rollout(RolloutMode.ATTEST, 0).instances()
        assert (seen.name, seen.reads, seen.writes, seen.silent) == ("web-1", (V1, V2), V2, False)
        assert seen.names_primary
        assert seen.reported_at.utcoffset() is not None

    @pytest.mark.parametrize(
        ("seconds", "seen"),
        [
            pytest.param(20, [("web-1", False)], id="within its time it is alive"),
            pytest.param(70, [("web-1", True)], id="past it nobody knows"),
            pytest.param(23 * 3600, [("web-1", True)], id="a night later nobody knows either"),
            pytest.param(400 * 24 * 3600, [("web-1", True)], id="a year later nobody knows either"),
        ],
    )
    def test_an_instance_that_falls_silent_is_unknown_and_not_gone(
        self, stage: Stage, seconds: int, seen: list[tuple[str, bool]]
    ) -> None:
        stage.says("web-1", (V1,), V1)
        stage.is_silent("web-1", seconds)
        assert [(each.name, each.silent) for each in stage.rollout(RolloutMode.ATTEST, 0).instances()] == seen

    def test_an_instance_that_withdraws_is_gone_at_once(self, stage: Stage) -> None:
        stage.says("web-1", (V1,), V1)
        stage.says("web-2", (V1,), V1)
        stage.withdraws("web-1")
        assert [each.name for each in stage.rollout(RolloutMode.ATTEST, 0).instances()] == ["web-2"]

    def test_what_officers_say_has_ended_is_forgotten_unless_it_has_reported_since(self, stage: Stage) -> None:
        for name in ("web-1", "web-2", "web-3"):
            stage.says(name, (V1,), V1)
            stage.is_silent(name, 70)
        rollout = stage.rollout(RolloutMode.ATTEST, 0)
        gone = Gone.of(rollout.instances())
        stage.says("web-2", (V1,), V1)
        rollout.forget(gone[:2])
        assert {each.name: each.silent for each in rollout.instances()} == {"web-2": False, "web-3": True}

    def test_a_silent_instance_that_speaks_again_is_alive(self, stage: Stage) -> None:
        stage.says("web-1", (V1,), V1)
        stage.is_silent("web-1", 70)
        stage.says("web-1", (V1,), V1)
        [seen] = stage.rollout(RolloutMode.ATTEST, 0).instances()
        assert not seen.silent

    def test_a_version_whose_key_an_instance_does_not_hold_is_not_read_by_it(self, stage: Stage) -> None:
        stage.says("web-1", (V1, V2), V1, holds=(V1,))
        stage.says("web-2", (V1, V2), V2, holds=(V1,))
        stage.says("web-3", (V1, V2), V2, holds=())
        seen = stage.rollout(RolloutMode.ATTEST, 0).instances()
        assert [(each.reads, each.writes, each.unproven) for each in seen] == [
            ((V1,), V1, (V2,)),
            ((V1,), None, (V2,)),
            ((), None, (V1, V2)),
        ]
        assert not any(READ_V2.met_by(each) for each in seen)

    def test_a_key_that_was_withdrawn_is_still_seen_in_whoever_holds_it_until_it_says_otherwise(
        self, stage: Stage
    ) -> None:
        stage.says("web-1", (V1, V2), V2)
        stored = stage.keys.set_primary(V2, stage.keys.read().revision)
        stage.keys.archive(V1, stored.revision)
        rollout = stage.rollout(RolloutMode.ATTEST, 0)
        assert [each.reads for each in rollout.instances()] == [(V1, V2)]
        stage.says("web-1", (V2,), V2)
        assert [each.reads for each in rollout.instances()] == [(V2,)]

    def test_a_key_that_is_in_no_key_store_is_held_by_nobody(self, stage: Stage) -> None:
        stage.says("web-1", (V1, V2), V2)
        stored = stage.keys.archive(V1, stage.keys.set_primary(V2, stage.keys.read().revision).revision)
        stage.keys.destroy(V1, stored.revision)
        [seen] = stage.rollout(RolloutMode.ATTEST, 0).instances()
        assert (seen.reads, seen.writes, seen.unproven) == ((V2,), V2, (V1,))

    def test_a_report_names_what_was_asked_for_when_it_was_prepared(self, stage: Stage) -> None:
        asked = stage.opens("a" * 32)
        stage.says("web-1", (V1,), V1)
        stage.says("web-2", (V1,), V1, nonce="b" * 32)
        assert [each.nonce for each in stage.rollout(RolloutMode.ATTEST, 0).instances()] == [asked, "b" * 32]

    def test_a_rollout_ends_when_nothing_is_lacking(self, stage: Stage) -> None:
        stage.says("web-1", (V1, V2), V1)
        [seen] = stage.rollout(RolloutMode.ATTEST, 0).roll_out(READ_V2, lagging, report_nothing)
        assert seen.name == "web-1"

    def test_what_is_lacking_after_the_time_out_is_the_refusal(self, stage: Stage) -> None:
        stage.says("web-1", (V1,), V1)
        with pytest.raises(RolloutPendingError, match=r"^web-1 lags; restart it$"):
            stage.rollout(RolloutMode.ATTEST, 0).roll_out(READ_V2, lagging, report_nothing)

    def test_the_instances_are_looked_at_again_until_nothing_is_lacking(self, stage: Stage) -> None:
        stage.says("web-1", (V1,), V1)
        looks: list[PendingReason | None] = []

        def then_it_reloads(instances: Sequence[Instance]) -> PendingReason | None:
            looks.append(lagging(instances))
            stage.says("web-1", (V1, V2), V1)
            return looks[-1]

        [seen] = stage.rollout(RolloutMode.ATTEST, 20).roll_out(READ_V2, then_it_reloads, report_nothing)
        assert (seen.reads, [each and each.why for each in looks]) == ((V1, V2), ["web-1 lags", None])

    def test_every_look_is_reported(self, stage: Stage) -> None:
        stage.says("web-1", (V1, V2), V1)
        stage.says("web-2", (V1,), V1)
        reported: list[tuple[int, int, PendingReason | None]] = []
        with pytest.raises(BlockedError):
            stage.rollout(RolloutMode.ATTEST, 0).roll_out(READ_V2, lagging, lambda *each: reported.append(each))
        assert [(done, total, str(reason)) for done, total, reason in reported] == [(1, 2, "web-2 lags; restart it")]

    def test_whoever_judges_can_end_the_wait(self, stage: Stage) -> None:
        stage.says("web-1", (V1,), V1)

        def paused(instances: Sequence[Instance]) -> PendingReason | None:
            raise PausedError("the rotation was paused; resume it")

        with pytest.raises(PausedError, match="paused"):
            stage.rollout(RolloutMode.ATTEST, 20).roll_out(READ_V2, paused, report_nothing)

    def test_an_officer_is_not_waited_for(self, stage: Stage) -> None:
        looks: list[int] = []

        def unconfirmed(instances: Sequence[Instance]) -> PendingReason | None:
            looks.append(len(instances))
            return PendingReason(PendingCode.CONFIRMATION, "officers", "nobody has confirmed", "confirm it")

        with pytest.raises(RolloutPendingError, match="nobody has confirmed"):
            stage.rollout(RolloutMode.CONFIRM, 20).roll_out(READ_V2, unconfirmed, report_nothing)
        assert looks == [0]
