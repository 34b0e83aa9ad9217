"""The audit is time-stamped where a request ends and before a report; an authority that is down stops nothing."""

from base64 import b64encode
from dataclasses import replace
from datetime import timedelta

import pytest

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.audit.verify import verify_everything
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backup_events import AuditTimestamped, TimestampFailed
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.requests.time_stamping import LATE_AFTER, stamp, stamp_if_due
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import ROSTER, FakeTimestampAuthority, FakeWorld
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, sign


@pytest.fixture
def world() -> FakeWorld:
    world = before_any_rotation()
    world.pipeline = replace(world.pipeline, timestamps=FakeTimestampAuthority(world.clock))
    return world


def authority(world: FakeWorld) -> FakeTimestampAuthority:
    found = world.pipeline.timestamps
    assert isinstance(found, FakeTimestampAuthority)
    return found


def stamped(world: FakeWorld) -> list[AuditTimestamped]:
    return list(recorded(world.ledger, AuditTimestamped))


def unstamped(world: FakeWorld) -> list[str]:
    return [sentence for sentence in overview(world.pipeline).attention if "time" in sentence and "stamp" in sentence]


def finished(world: FakeWorld) -> str:
    rotation = approved(world)
    for _ in runner.run(world.pipeline, rotation.id, world.report):
        pass
    return rotation.id


def test_the_end_of_a_rotation_is_stamped_with_all_that_came_before(world: FakeWorld) -> None:
    finished(world)
    (found,) = stamped(world)
    last = world.ledger.state.events[-2]
    assert (found.seq, found.hash, found.seq + 1) == (last.seq, last.hash, world.ledger.head().seq)
    assert world.anchors.heads()[-1] == world.ledger.head()
    assert unstamped(world) == []
    assert verify_everything(world.pipeline) == world.ledger.head()


def test_a_change_of_policy_is_stamped(world: FakeWorld) -> None:
    world.signatures.configured = replace(ROSTER, required=1)
    policy = open_policy(world.pipeline, reason="fewer", requested_by="dba")
    for officer in (ADA, BEN):
        sign(world, policy, officer)
    assert stamped(world) == []
    change_policy(world.pipeline, policy)
    assert [each.seq for each in stamped(world)] == [world.ledger.head().seq - 1]


def test_nothing_is_stamped_twice(world: FakeWorld) -> None:
    assert stamp(world.pipeline) is None
    assert stamp(world.pipeline) is None
    assert (len(stamped(world)), authority(world).asked) == (1, 1)
    world.ledger.append(Note(EventKind.COUNTED, {}))
    assert stamp_if_due(world.pipeline) is None, "a count is no reason by itself"
    assert stamp(world.pipeline) is None
    assert len(stamped(world)) == 2


def test_an_authority_that_is_down_stops_no_rotation_is_reported_once_and_asked_again(world: FakeWorld) -> None:
    authority(world).down = True
    rotation = finished(world)
    assert world.ledger.request(rotation).status is RequestStatus.FINISHED
    (sentence,) = unstamped(world)
    assert sentence.startswith("the audit has had no time stamps since 2026-01-05 09:00 UTC: stamps.example.org does")

    for _ in range(3):
        world.clock.at += timedelta(minutes=1)
        assert stamp_if_due(world.pipeline) == "stamps.example.org does not answer; check [audit] timestamp_url"
    assert len(list(recorded(world.ledger, TimestampFailed))) == 1, "an outage is one event"
    assert unstamped(world) == [sentence]

    authority(world).down = False
    assert stamp_if_due(world.pipeline) is None
    assert (len(stamped(world)), unstamped(world)) == (1, [])


def test_a_request_that_ended_without_a_time_stamp_is_reported_after_a_while(world: FakeWorld) -> None:
    known, world.pipeline = world.pipeline, replace(world.pipeline, timestamps=None)
    rotation = finished(world)
    assert unstamped(world) == [], "none is wanted"
    world.pipeline = known
    assert unstamped(world) == []
    world.clock.at += 2 * LATE_AFTER
    assert [sentence.partition(" ended")[0] for sentence in unstamped(world)] == [f"request {rotation}"]


def test_a_time_stamp_that_nobody_vouches_for_is_no_evidence(world: FakeWorld) -> None:
    stamp(world.pipeline)
    authority(world).distrusted = True
    with pytest.raises(AuditError, match=r"the time stamp of event 4 \(event 5\) does not hold"):
        verify_everything(world.pipeline)


@pytest.mark.parametrize(("change", "phrase"), [
    ({"hash": "ab" * 32}, "is of another audit"),
    ({"seq": 9}, "is of another audit"),
    ({"response": "eA=="}, "does not hold"),
    ({"stamped_at": "2020-01-01"}, "does not hold: it is of 2026"),
])  # fmt: skip
def test_a_time_stamp_that_somebody_wrote_into_the_audit_is_none(
    world: FakeWorld, change: dict[str, object], phrase: str
) -> None:
    done = authority(world).stamp(b"")
    head = world.ledger.head()
    response = b64encode(f"{head.hash} at {done.at.isoformat()}".encode()).decode()
    at = done.at - timedelta(days=300) if "stamped_at" in change else done.at
    facts = {"seq": head.seq, "hash": head.hash, "response": response, **change, "stamped_at": at}
    world.ledger.append(AuditTimestamped(authority="x", trusted=(), **facts))  # type: ignore[arg-type]
    with pytest.raises(AuditError, match=phrase):
        verify_everything(world.pipeline)
