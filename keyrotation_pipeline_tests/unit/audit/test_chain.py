"""The chain's own rules, what counts as an anchor, and what the last two steps of a rotation tell."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from keyrotation_pipeline.audit.verify import read_anchor, verify_chain
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import GENESIS, AuditEvent, AuditHead, body_of, hash_of
from keyrotation_pipeline.model.proof import Proven, SnapshotPosition, records_reencrypted
from keyrotation_pipeline.model.records import as_json
from keyrotation_pipeline.model.requests import Step, StepRecord
from keyrotation_pipeline.rotation.report import complete_rotation_audit, report_compliance
from keyrotation_pipeline_tests.fakes import START, V1, FakeWorld, fake_pipeline, rotation_of

HASH = "ab" * 32


def chain(events: int) -> list[AuditEvent]:
    made: list[AuditEvent] = []
    previous = GENESIS
    for seq in range(1, events + 1):
        body = body_of(seq=seq, at=START, actor="a", database="d", request=None, event="tried", facts={})
        made.append(AuditEvent(seq, body, previous, hash_of(previous, body), "tried", None))
        previous = made[-1].hash
    return made


def test_the_bytes_and_the_hash_of_an_event_never_change() -> None:
    body = body_of(
        seq=1,
        at=datetime(2026, 1, 5, 9, 0, 0, 7, tzinfo=UTC),
        actor="dbå",
        database="clinic@db, system identifier 7",
        request=None,
        event="tried",
        facts={"b": [1, True], "a": "x"},
    )
    assert body == (
        r'{"actor":"db\u00e5","at":"2026-01-05T09:00:00.000007+00:00","database":"clinic@db, system identifier 7",'
        r'"event":"tried","facts":{"a":"x","b":[1,true]},"request":null,"seq":1}'
    )
    assert hash_of(GENESIS, body) == hashlib.sha256(b"keyrotation-audit-v1" + b"0" * 64 + body.encode()).hexdigest()


def test_an_empty_chain_verifies_against_its_beginning() -> None:
    assert verify_chain([], [AuditHead(0, GENESIS)]) == AuditHead(0, GENESIS)


def test_a_chain_leads_through_every_anchor() -> None:
    events = chain(5)
    anchors = [AuditHead(event.seq, event.hash) for event in (events[1], events[4], events[1])]
    assert verify_chain(events, anchors) == AuditHead(5, events[4].hash)


def test_two_anchors_that_contradict_each_other_cannot_both_hold() -> None:
    events = chain(5)
    with pytest.raises(AuditError, match="event 2 is not the one"):
        verify_chain(events, [AuditHead(2, events[1].hash), AuditHead(2, HASH)])


def test_an_event_replaced_by_one_with_a_right_hash_of_its_own_is_found() -> None:
    events = chain(5)
    body = events[2].body.replace("tried", "forged")
    events[2] = AuditEvent(3, body, events[2].previous, hash_of(events[2].previous, body), "forged", None)
    with pytest.raises(AuditError, match="event 4 does not follow event 3 as it is now"):
        verify_chain(events)


def test_many_faults_are_named_up_to_five() -> None:
    events = [replace(event, body=event.body + " ") for event in chain(8)]
    with pytest.raises(AuditError, match="event 5 was changed and 3 more; keep this database as it is"):
        verify_chain(events)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"Reason: Audit head: 9 {HASH}\nAudit head: 7 {HASH}\nStart by: …\n", id="approval text"),
        pytest.param(json.dumps({"file": "x", "audit": {"seq": 7, "head": HASH}}), id="manifest or status"),
        pytest.param(
            json.dumps({"report": [{"audit": {"seq": 7, "hash": HASH}}, {"seq": 2, "hash": HASH}]}), id="report"
        ),
        pytest.param(
            json.dumps({"props": [{"name": "audit-seq", "value": "7"}, {"name": "audit-head", "value": HASH}]}),
            id="OSCAL",
        ),
    ],
)
def test_an_anchor_is_read_from_whatever_names_an_audit_head(text: str) -> None:
    assert read_anchor(text) == AuditHead(7, HASH)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param('{"seq": 7}', id="no hash"),
        pytest.param('{"seq": 7, "hash": "short"}', id="not a hash"),
        pytest.param('{"seq": true, "hash": "' + HASH + '"}', id="not a number"),
        pytest.param(f"Audit head: 7 {HASH}0", id="too long a hash"),
    ],
)
def test_a_text_without_an_audit_head_is_no_anchor(text: str) -> None:
    with pytest.raises(AuditError, match="names no audit head"):
        read_anchor(text)


@pytest.fixture
def world() -> FakeWorld:
    world = fake_pipeline()
    rotation = rotation_of(world)
    for step, facts in (
        (Step.ROWS, {"rows": 40, "values": 80}),
        (Step.ZERO_OLD_ROWS_PROOF, as_json(Proven(SnapshotPosition(7, "0/7"), (V1,), {"clients": 2, "notes": 1}, 80))),
        (Step.RETIRED_KEY, {"version": "v1"}),
    ):
        world.ledger.finish_step(rotation.id, StepRecord(step, None, None, START, facts))
    return world


def test_records_reencrypted_are_those_of_the_walk_and_of_the_sweeps(world: FakeWorld) -> None:
    rotation = world.ledger.current()
    assert rotation is not None
    assert records_reencrypted(rotation) == 43


def test_the_seeds_row_is_completed_with_rows_and_time(world: FakeWorld) -> None:
    rotation = world.ledger.current()
    assert rotation is not None
    facts = complete_rotation_audit(world.pipeline, rotation, world.report)
    assert world.ledger.state.seed_rows[rotation.id] == (43, START)
    assert (facts["old_key_version"], facts["new_key_version"], facts["records_reencrypted"]) == ("v1", "v2", 43)


def test_a_broken_chain_completes_nothing(world: FakeWorld) -> None:
    rotation = world.ledger.current()
    assert rotation is not None
    del world.ledger.state.events[1]
    with pytest.raises(AuditError, match="event 2 was removed"):
        complete_rotation_audit(world.pipeline, rotation, world.report)
    assert world.ledger.state.seed_rows == {}


def test_the_report_names_keys_by_fingerprint_and_anchors_the_audit(world: FakeWorld) -> None:
    rotation = world.ledger.current()
    assert rotation is not None
    head = world.ledger.head()
    told = report_compliance(world.pipeline, rotation, world.report)
    assert told["from"] == {"version": "v1", "fingerprint": world.keys.get(rotation.source).fingerprint}
    assert told["to"] == {"version": "v2", "fingerprint": world.keys.get(rotation.target).fingerprint}
    assert told["proof"]["old_values"] == 0
    assert told["records_reencrypted"] == 43
    assert read_anchor(json.dumps(told)) == head
