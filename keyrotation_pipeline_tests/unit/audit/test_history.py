"""Each event has the roster and the text of its moment, and says why it cannot have happened."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from keyrotation_pipeline.audit.history import HistoryEntry, history, whole_history
from keyrotation_pipeline.audit.request_rules import leaving, members_reconciled_in, reconciled_in
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import COMPARED, Officer, Roster, RosterChange, RosterSignature, rendered
from keyrotation_pipeline.model.audit import AuditHead, EventKind, FormerEvents
from keyrotation_pipeline.model.audit_state import MOST_FAULTS
from keyrotation_pipeline.model.backup_events import BackupKeyPinned, SigningBegun
from keyrotation_pipeline.model.breach import (
    NO_NOTICE,
    AssessmentSigned,
    BreachAnswers,
    BreachAssessed,
)
from keyrotation_pipeline.model.comparison import TableCompared, ValuesCompared
from keyrotation_pipeline.model.environment import DatabaseServer
from keyrotation_pipeline.model.fleet import TargetKind
from keyrotation_pipeline.model.incident_events import EmergencyPrepared, IncidentClosed, IncidentOpened
from keyrotation_pipeline.model.incidents import IncidentType
from keyrotation_pipeline.model.key_events import (
    KeyDestroyed,
    KeyRegistered,
    KeyReplaced,
    KeyRetired,
    KeyStateChanged,
    MemberProven,
    RetirementIntended,
)
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.members import member_line
from keyrotation_pipeline.model.proof import MemberEvidence, MemberState
from keyrotation_pipeline.model.request_events import (
    DatabaseReconciled,
    HostsPinned,
    MemberJoined,
    MemberReconciled,
    PromotionRecorded,
    RequestOpened,
    RolloutConfirmed,
    RosterPinned,
    SignatureAdded,
    StatusChanged,
    StepFinished,
    TreeLeft,
)
from keyrotation_pipeline.model.requests import (
    Request,
    RequestAction,
    RequestStatus,
    RotationType,
    Step,
    Walk,
)
from keyrotation_pipeline.model.signed_summary import ASSESSMENT, CONFIRMATION
from keyrotation_pipeline.model.visible_text import signed_name
from keyrotation_pipeline_tests.contract.ledger_suite import opened_as, rotation, signature_by, step, text_of
from keyrotation_pipeline_tests.fakes import ROSTER, START, V1, V2, FakeLedger, FakeSignatures
from keyrotation_pipeline_tests.fakes.event_key import PUBLIC
from keyrotation_pipeline_tests.signed_texts import confirmation_of, with_lines
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

LATER = Roster(2, (Officer("Cem", "C" * 40), Officer("Dan", "D" * 40)), ("F" * 40,))
ADA, BEN = (officer.fingerprint for officer in ROSTER.officers)


@pytest.fixture
def ledger() -> FakeLedger:
    """v1 is active, and Ada and Ben are the officers."""
    made = before_any_rotation().ledger
    made.refuses = False
    return made


def asking(ledger: FakeLedger, action: RequestAction) -> Request:
    """A request that is not opened yet, for v1 as it is registered."""
    asked = rotation(2) if action.walks else opened_as(action)
    return replace(asked, action=action, source_fingerprint=ledger.state.keys[V1].fingerprint)


def opened(ledger: FakeLedger, action: RequestAction, after: Roster = LATER) -> tuple[Request, bytes]:
    request = asking(ledger, action)
    text = text_of(request, ROSTER, after)
    ledger.append(RequestOpened.of(request, text), request.id)
    return request, text


def signed_by(ledger: FakeLedger, action: RequestAction, roster: Roster = ROSTER, after: Roster = LATER) -> str:
    """A request that these officers have signed, which the ledger then calls running."""
    request, text = opened(ledger, action, after)
    for officer in roster.officers:
        ledger.append(SignatureAdded.of(signature_by(officer.fingerprint, text)), request.id)
    running(ledger, request.id)
    return request.id


def running(ledger: FakeLedger, request: str) -> None:
    ledger.append(StatusChanged(RequestStatus.REQUESTED, RequestStatus.RUNNING, START), request)


def newest(ledger: FakeLedger, kind: EventKind) -> HistoryEntry:
    """The same, whether everything is read or only this kind."""
    selected, (whole, state) = history(ledger, kind), whole_history(ledger.events(), ledger.verify)
    assert selected == tuple(replace(each, roster=state.roster_at(each.seq)) for each in whole if each.kind == kind)
    unverified = {each.seq for each in state.unverified}
    faults = [f"event {each.seq} ({each.kind}) {each.fault}" for each in whole if each.fault]
    assert [each for each in state.faults if int(each.split()[1]) not in unverified] == faults
    return selected[-1]


def test_a_signature_has_the_roster_and_the_text_of_its_moment(ledger: FakeLedger) -> None:
    request = signed_by(ledger, RequestAction.POLICY)
    ledger.append(RosterPinned.of(LATER), request)
    signature = newest(ledger, EventKind.SIGNATURE_ADDED)
    assert (signature.roster, signature.fault) == (ROSTER, None)
    assert b"Action: policy" in signature.text
    assert newest(ledger, EventKind.ROSTER_PINNED).roster == LATER


def change(ledger: FakeLedger, *officers: str, request: str = "a" * 32) -> RosterChange:
    """A change of the roster that the database has lost, with these officers' signatures."""
    text = text_of(replace(asking(ledger, RequestAction.POLICY), id=request), ROSTER, LATER)
    signatures = [RosterSignature(each, FakeSignatures.sign(each, text).hex(), START) for each in officers]
    return RosterChange(LATER, text.decode(), tuple(signatures))


def test_a_roster_that_was_lost_is_pinned_again_with_what_its_predecessors_signed(ledger: FakeLedger) -> None:
    request, text = opened(ledger, RequestAction.RECONCILE)
    for officer in LATER.officers:
        ledger.append(SignatureAdded.of(signature_by(officer.fingerprint, text)), request.id)
    assert len(ledger.replayed().unverified) == 2
    assert list(ledger.replayed().faults_but(LATER.officers)) == []
    ledger.append(RosterPinned.of(LATER, [change(ledger, ADA, BEN)]), request.id)
    running(ledger, request.id)
    state = ledger.replayed()
    assert (state.faults, state.roster) == ((), LATER)
    assert state.requests[request.id].status is RequestStatus.RUNNING


@pytest.mark.parametrize(
    ("signers", "fault"),
    [
        pytest.param(None, "pins a roster that nobody is known to have signed", id="by its own members alone"),
        pytest.param((ADA,), "pins a roster that too few officers of the one before have signed", id="by one officer"),
        pytest.param((ADA, ADA), "pins a roster that too few officers of the one before", id="by one officer twice"),
        pytest.param(("C" * 40, "D" * 40), "has no good signature", id="by its own members as if before"),
    ],
)
def test_a_reconciliation_pins_no_roster_that_the_officers_before_have_not_signed(
    ledger: FakeLedger, signers: tuple[str, ...] | None, fault: str
) -> None:
    request = signed_by(ledger, RequestAction.RECONCILE, LATER)
    changes = [] if signers is None else [change(ledger, *signers)]
    ledger.append(RosterPinned.of(LATER, changes), request)
    pinned = newest(ledger, EventKind.ROSTER_PINNED)
    assert str(pinned.fault).startswith(fault)
    assert ledger.replayed().roster == ROSTER


def test_a_lost_roster_is_pinned_again_only_by_a_reconciliation_that_enough_of_it_signed(ledger: FakeLedger) -> None:
    request, text = opened(ledger, RequestAction.RECONCILE)
    ledger.append(SignatureAdded.of(signature_by("C" * 40, text)), request.id)
    ledger.append(RosterPinned.of(LATER, [change(ledger, ADA, BEN)]), request.id)
    assert newest(ledger, EventKind.ROSTER_PINNED).fault == "is by a request that too few have signed"


def test_a_change_of_the_roster_that_was_undone_is_not_used_again(ledger: FakeLedger) -> None:
    """Officers who left cannot come back by what was once signed for them."""
    policy = asking(ledger, RequestAction.POLICY)
    signed_by(ledger, RequestAction.POLICY)
    ledger.append(RosterPinned.of(LATER), policy.id)
    ledger.append(StatusChanged(RequestStatus.RUNNING, RequestStatus.FINISHED, START), policy.id)
    back = replace(policy, id="b" * 32)
    text = text_of(back, LATER, ROSTER)
    ledger.append(RequestOpened.of(back, text), back.id)
    for officer in LATER.officers:
        ledger.append(SignatureAdded.of(signature_by(officer.fingerprint, text)), back.id)
    running(ledger, back.id)
    ledger.append(RosterPinned.of(ROSTER), back.id)
    assert ledger.replayed().roster == ROSTER
    asked = replace(asking(ledger, RequestAction.RECONCILE), id="c" * 32)
    text = text_of(asked, ROSTER)
    ledger.append(RequestOpened.of(asked, text), asked.id)
    for officer in LATER.officers:
        ledger.append(SignatureAdded.of(signature_by(officer.fingerprint, text)), asked.id)
    ledger.append(RosterPinned.of(LATER, [change(ledger, ADA, BEN, request=policy.id)]), asked.id)
    fault = newest(ledger, EventKind.ROSTER_PINNED).fault
    assert fault == "pins a roster by a change that the audit has not lost"


def test_a_roster_that_was_not_signed_for_vouches_for_nothing(ledger: FakeLedger) -> None:
    ledger.append(RosterPinned.of(LATER), None)
    pinned = newest(ledger, EventKind.ROSTER_PINNED)
    assert (pinned.roster, pinned.fault) == (ROSTER, "is of a request that was never opened")
    signed_by(ledger, RequestAction.POLICY, LATER)
    assert str(newest(ledger, EventKind.SIGNATURE_ADDED).fault).startswith("has no good signature")
    assert newest(ledger, EventKind.STATUS_CHANGED).fault == "is by a request that too few have signed"


def test_another_roster_than_the_signed_one_is_not_pinned(ledger: FakeLedger) -> None:
    request = signed_by(ledger, RequestAction.POLICY)
    ledger.append(RosterPinned.of(replace(LATER, required=1)), request)
    assert newest(ledger, EventKind.ROSTER_PINNED).fault == "has a text with another line To than its facts"


@pytest.mark.parametrize("after", [RequestStatus.RUNNING, RequestStatus.FINISHED])
def test_a_request_that_is_over_does_not_come_back(ledger: FakeLedger, after: RequestStatus) -> None:
    request = signed_by(ledger, RequestAction.POLICY)
    ledger.append(StatusChanged(RequestStatus.RUNNING, RequestStatus.CANCELLED, START), request)
    ledger.append(StatusChanged(RequestStatus.CANCELLED, after, START), request)
    assert newest(ledger, EventKind.STATUS_CHANGED).fault == f"makes a request that is cancelled {after}"


def test_a_signature_by_another_than_it_is_filed_under_is_none(ledger: FakeLedger) -> None:
    request, text = opened(ledger, RequestAction.POLICY)
    ledger.append(SignatureAdded(ADA, START, FakeSignatures.sign(BEN, text).hex()), request.id)
    forged = newest(ledger, EventKind.SIGNATURE_ADDED)
    assert forged.fault == f"is signed by {BEN[-16:]}, not by {ADA[-16:]}"


def test_one_officer_does_not_count_twice(ledger: FakeLedger) -> None:
    request, text = opened(ledger, RequestAction.POLICY)
    for _ in range(2):
        ledger.append(SignatureAdded.of(signature_by(ADA, text)), request.id)
    assert newest(ledger, EventKind.SIGNATURE_ADDED).fault == "is a second signature of one officer"
    running(ledger, request.id)
    assert newest(ledger, EventKind.STATUS_CHANGED).fault == "is by a request that too few have signed"


REWRITTEN: dict[str, tuple[Callable[[Walk], Request], str]] = {
    "another request": (lambda asked: replace(asked, id="e" * 32), "Request"),
    "another action": (lambda asked: replace(asked, action=RequestAction.ROLLBACK), "Action"),
    "another source": (lambda asked: replace(asked, source=V2), "From"),
    "another key": (lambda asked: replace(asked, source_fingerprint="2f" * 32), "From"),
    "another target": (lambda asked: replace(asked, target=V1), "To"),
    "an emergency": (
        lambda asked: replace(asked, type=RotationType.EMERGENCY, incident="INC-2026-001", reason="x"), "Incident",
    ),
    "another reason": (lambda asked: replace(asked, reason="because"), "Reason"),
    "later dates": (lambda asked: replace(asked, start_by=asked.start_by + timedelta(days=1)), "Start by"),
    "no end": (lambda asked: replace(asked, finish_by=asked.finish_by + timedelta(days=1)), "Finish by"),
    "at once": (lambda asked: replace(asked, not_before=None), "Not before"),
    "another audit": (lambda asked: replace(asked, audit_head=(0, "1" * 64)), "Audit head"),
}  # fmt: skip


@pytest.mark.parametrize("name", REWRITTEN)
def test_facts_that_the_signed_text_does_not_say_open_nothing(ledger: FakeLedger, name: str) -> None:
    asked = asking(ledger, RequestAction.ROTATE)
    assert isinstance(asked, Walk)
    asked = replace(asked, not_before=START)
    rewrite, line = REWRITTEN[name]
    forged = rewrite(asked)
    ledger.append(RequestOpened.of(forged, text_of(asked, ROSTER)), forged.id)
    fault = str(newest(ledger, EventKind.REQUEST_OPENED).fault)
    another_audit = "opens a request that is to be signed for another audit"
    assert fault == (another_audit if line == "Audit head" else f"has a text with another line {line} than its facts")
    assert ledger.replayed().requests == {}


def test_a_request_to_decrypt_says_what_it_decrypts(ledger: FakeLedger) -> None:
    asked = asking(ledger, RequestAction.DECRYPT)
    ledger.append(RequestOpened.of(asked, text_of(asked, ROSTER, decrypts="")), asked.id)
    assert newest(ledger, EventKind.REQUEST_OPENED).fault == "is to be signed without what it decrypts"


def test_no_other_request_says_that_it_decrypts(ledger: FakeLedger) -> None:
    for action in (RequestAction.ROTATE, RequestAction.ROLLBACK):
        asked = asking(ledger, action)
        ledger.append(RequestOpened.of(asked, text_of(asked, ROSTER, decrypts="cases.note")), asked.id)
        fault = newest(ledger, EventKind.REQUEST_OPENED).fault
        assert fault == "is to be signed for what it decrypts, which it does not"


def test_an_emergency_without_an_incident_and_an_incident_without_an_emergency_open_nothing(
    ledger: FakeLedger,
) -> None:
    for each in ({"type": RotationType.EMERGENCY}, {"incident": "INC-2026-001"}):
        asked = replace(asking(ledger, RequestAction.ROTATE), **each)
        ledger.append(RequestOpened.of(asked, text_of(asked, ROSTER)), asked.id)
        assert "is a " in str(newest(ledger, EventKind.REQUEST_OPENED).fault)


def incident_opened() -> IncidentOpened:
    named = ("INC-2026-001", IncidentType.KEY_EXPOSED, "a laptop")
    return IncidentOpened(*named, START, START, "ops", (V1,), None, None, None, "")


def compared(ledger: FakeLedger) -> ValuesCompared:
    """A comparison of an incident's values, which found one difference."""
    found = TableCompared("clients", rows=5, values=9, changed=1)
    fact = ValuesCompared("INC-2026-001", "ada", START, "backup-1.json", START, "here", (found,), (), ())
    ledger.append(fact)
    return fact


def test_the_text_of_an_emergency_says_which_comparison_the_audit_has_that_it_is_anchored_at(
    ledger: FakeLedger,
) -> None:
    ledger.append(incident_opened())
    asked = replace(asking(ledger, RequestAction.ROTATE), type=RotationType.EMERGENCY, incident="INC-2026-001")
    before = replace(asked, audit_head=anchor(ledger))
    fact = compared(ledger)
    after = replace(asked, id="d" * 32, audit_head=anchor(ledger))
    compared(ledger)
    said = f"yes, {fact}"
    told = with_lines(text_of(after, ROSTER), {COMPARED: said})
    for request, text, is_true in (
        (before, text_of(before, ROSTER), True),
        (replace(before, id="c" * 32), with_lines(text_of(before, ROSTER), {COMPARED: said}), False),
        (replace(after, id="e" * 32), text_of(replace(after, id="e" * 32), ROSTER), False),
        (after, told, True),
    ):
        ledger.append(RequestOpened.of(request, text), request.id)
        fault = newest(ledger, EventKind.REQUEST_OPENED).fault
        assert (fault is None) == is_true, fault
    assert said.endswith("1 difference(s), 9 present value(s) compared")


def test_a_comparison_that_somebody_wrote_keeps_no_emergency_from_being_signed(ledger: FakeLedger) -> None:
    compared(ledger)
    assert newest(ledger, EventKind.VALUES_COMPARED).fault == "is of an incident that was never opened"
    ledger.append(incident_opened())
    hidden = ValuesCompared("INC-2026-001", "ada", START, "backup\n\u202e1", START, "here", (), (), ())
    ledger.append(hidden)
    line = ledger.replayed().incidents.compared("INC-2026-001", ledger.head().seq)
    assert line.isprintable()  # else nobody could request an emergency any more


def anchor(ledger: FakeLedger) -> tuple[int, str]:
    head = ledger.head()
    return head.seq, head.hash


def test_a_text_for_another_database_or_other_officers_opens_nothing(ledger: FakeLedger) -> None:
    asked = asking(ledger, RequestAction.ROTATE)
    text = with_lines(text_of(asked, ROSTER), {"Database": "other, system identifier 7"})
    ledger.append(RequestOpened.of(asked, text), asked.id)
    assert newest(ledger, EventKind.REQUEST_OPENED).fault == "is to be signed for another database"
    ledger.append(RequestOpened.of(asked, text_of(asked, LATER)), asked.id)
    assert newest(ledger, EventKind.REQUEST_OPENED).fault == "is to be signed by other officers"


def test_a_confirmation_or_a_text_of_another_kind_is_no_approval(ledger: FakeLedger) -> None:
    asked = asking(ledger, RequestAction.ROTATE)
    text = with_lines(text_of(asked, ROSTER), {}, CONFIRMATION)
    ledger.append(RequestOpened.of(asked, text), asked.id)
    assert newest(ledger, EventKind.REQUEST_OPENED).fault == "has a text that nobody can have signed"


def test_an_id_is_opened_once(ledger: FakeLedger) -> None:
    opened(ledger, RequestAction.ROTATE)
    opened(ledger, RequestAction.ROTATE)
    assert newest(ledger, EventKind.REQUEST_OPENED).fault == "opens a request that is there already"


RECORD = KeyRecord(V2, KeyState.PRE_ACTIVATION, "2f" * 32, START)
UNSIGNED = {
    "starts": StatusChanged(RequestStatus.REQUESTED, RequestStatus.RUNNING, START),
    "finishes a step": StepFinished.of(step(Step.ROWS)),
    "is promoted": PromotionRecorded(9),
    "registers a key": KeyRegistered.of(RECORD),
    "changes a key": KeyStateChanged(V1, KeyState.ACTIVE, KeyState.DEACTIVATED, "fingerprint"),
    "retires a key": KeyRetired(V1, ("clients",), 0, 9, "0/1", START, (V1,), (V1,), V2, "backup"),
    "says that a key is destroyed": KeyDestroyed(V1, "1f" * 32, (), ()),
    "reconciles": DatabaseReconciled("restored", V1, (V1,), {}, (), (AuditHead(9, "9" * 64),)),
}


@pytest.mark.parametrize("signers", [0, 1])
@pytest.mark.parametrize("name", UNSIGNED)
def test_nothing_is_done_by_a_request_that_too_few_have_signed(ledger: FakeLedger, name: str, signers: int) -> None:
    action = {"reconciles": RequestAction.RECONCILE, "says that a key is destroyed": RequestAction.DESTROY}.get(name)
    request, text = opened(ledger, action or RequestAction.ROTATE)
    for officer in (ADA, BEN)[:signers]:
        ledger.append(SignatureAdded.of(signature_by(officer, text)), request.id)
    fact = UNSIGNED[name]
    if isinstance(fact, KeyStateChanged):
        fact = replace(fact, fingerprint=ledger.state.keys[V1].fingerprint)
    ledger.append(fact, request.id)
    assert newest(ledger, fact.kind).fault == "is by a request that too few have signed"
    assert ledger.replayed().requests[request.id].status is RequestStatus.REQUESTED


def test_no_key_is_destroyed_by_a_request_to_do_something_else(ledger: FakeLedger) -> None:
    request = signed_by(ledger, RequestAction.ROTATE)
    fingerprint = ledger.state.keys[V1].fingerprint
    for before, after in (
        (KeyState.ACTIVE, KeyState.DEACTIVATED),
        (KeyState.DEACTIVATED, KeyState.ARCHIVED),
        (KeyState.ARCHIVED, KeyState.DESTROYED),
    ):
        ledger.append(KeyStateChanged(V1, before, after, fingerprint), request)
    assert newest(ledger, EventKind.KEY_STATE_CHANGED).fault == "is by a request to rotate"
    assert ledger.replayed().keys[V1].state is KeyState.ARCHIVED


def test_a_request_to_destroy_destroys_only_the_key_that_it_names(ledger: FakeLedger) -> None:
    walk = signed_by(ledger, RequestAction.ROTATE)
    ledger.append(KeyRegistered.of(RECORD), walk)
    ledger.append(KeyStateChanged(V2, KeyState.PRE_ACTIVATION, KeyState.ARCHIVED, RECORD.fingerprint), walk)
    asked = replace(asking(ledger, RequestAction.DESTROY), id="d" * 32)
    text = text_of(asked, ROSTER)
    ledger.append(RequestOpened.of(asked, text), asked.id)
    for officer in (ADA, BEN):
        ledger.append(SignatureAdded.of(signature_by(officer, text)), asked.id)
    running(ledger, asked.id)
    ledger.append(KeyStateChanged(V2, KeyState.ARCHIVED, KeyState.DESTROYED, RECORD.fingerprint), asked.id)
    assert (
        newest(ledger, EventKind.KEY_STATE_CHANGED).fault
        == f"destroys v2 by a request to destroy v1 {asked.source_fingerprint[:16]}"
    )


def test_a_confirmation_counts_with_a_good_signature_over_a_text_about_this_rollout(ledger: FakeLedger) -> None:
    request = signed_by(ledger, RequestAction.ROTATE)
    text = confirmation_of(request, "reads").decode()
    for said, signature, fault in (
        (text, FakeSignatures.sign(ADA, text.encode()), None),
        (text, b"garbage", "has no good signature"),
        (text.replace(request, "e" * 32), b"", "has a text with another line Request than its facts"),
        (confirmation_of(request, "writes").decode(), b"", "has a text with another line Rollout than its facts"),
        (text.replace("confirmation", "approval"), b"", "has a text that nobody can have signed"),
    ):
        ledger.append(RolloutConfirmed(TargetKind.READS, (), ADA, signature.hex(), said), request)
        found = newest(ledger, EventKind.ROLLOUT_CONFIRMED).fault
        assert found is None if fault is None else str(found).startswith(fault)


def test_one_event_closes_no_incident_whose_key_is_in_use(ledger: FakeLedger) -> None:
    incident = "INC-2026-001"
    ledger.append(incident_opened())
    ledger.append(IncidentClosed(incident, "owner", START, None, None, None))
    fault = newest(ledger, EventKind.INCIDENT_CLOSED).fault
    assert fault == "closes an incident although v1 is in use and officers have signed no decision"
    assert [each.id for each in ledger.replayed().incidents.unfinished] == [incident]


def test_an_event_of_another_database_is_a_fault_and_changes_nothing_that_takes_signatures(
    ledger: FakeLedger,
) -> None:
    request = signed_by(ledger, RequestAction.ROTATE)
    ledger.database = "other@localhost, system identifier 7"
    ledger.append(PromotionRecorded(9), request)
    promoted = newest_fault(ledger)
    assert promoted == "is of another database, which nobody has reconciled"
    assert any("is of another database (other, system identifier 7)" in each for each in ledger.replayed().faults)


def newest_fault(ledger: FakeLedger) -> str | None:
    (*_, last), _ = whole_history(ledger.events(), ledger.verify)
    return last.fault


def test_a_tree_at_witnesses_is_left_only_as_officers_have_signed(ledger: FakeLedger) -> None:
    origin = str(ledger.replayed().origin)
    left = TreeLeft(origin, "witness.example", 50)
    asked = asking(ledger, RequestAction.RECONCILE)
    text = with_lines(text_of(asked, ROSTER), {"Authorises": f"reconcile; {leaving(left)}"})
    ledger.append(RequestOpened.of(asked, text), asked.id)
    for officer in (ADA, BEN):
        ledger.append(SignatureAdded.of(signature_by(officer, text)), asked.id)
    running(ledger, asked.id)
    for other in (replace(left, signed=49), replace(left, origin=f"{origin}/other")):
        ledger.append(DatabaseReconciled("x", V1, (), {}, (), (), left_tree=other), asked.id)
        assert newest_fault(ledger) == "leaves a tree that officers have not signed"
        assert ledger.replayed().origin == origin
    ledger.append(DatabaseReconciled("x", V1, (), {}, (), (), left_tree=left), asked.id)
    assert newest_fault(ledger) is None
    assert ledger.replayed().trees == {origin: 50}
    assert ledger.replayed().origin == f"{origin}/{asked.id[:16]}"


def test_a_member_goes_on_only_as_officers_have_signed(ledger: FakeLedger) -> None:
    north = MemberReconciled(DatabaseServer("10.0.0.7:5432", 2), FormerEvents(3, AuditHead(9, "a" * 64)))
    asked = asking(ledger, RequestAction.RECONCILE)
    text = with_lines(text_of(asked, ROSTER), {"Authorises": "; ".join(("reconcile", *reconciled_in("north", north)))})
    assert members_reconciled_in(text) == {"north": north}
    ledger.append(RequestOpened.of(asked, text), asked.id)
    for officer in (ADA, BEN):
        ledger.append(SignatureAdded.of(signature_by(officer, text)), asked.id)
    running(ledger, asked.id)
    reconciled = DatabaseReconciled("x", V1, (), {}, (), ())
    for name, other in {
        "south": north,
        "north": replace(north, server=DatabaseServer("10.0.0.8:5432", 2)),
        "north ": replace(north, set_aside=FormerEvents(3, AuditHead(9, "b" * 64))),
    }.items():
        ledger.append(replace(reconciled, members={name.strip(): other}), asked.id)
        assert newest_fault(ledger) == f"goes on in {name.strip()} otherwise than officers signed"
    assert (ledger.replayed().member_servers, ledger.replayed().set_aside) == ({}, {})
    ledger.append(replace(reconciled, members={"north": north}), asked.id)
    assert newest_fault(ledger) is None
    assert ledger.replayed().member_servers == {"north": north.server}
    assert ledger.replayed().set_aside == {"north": (AuditHead(9, "a" * 64),)}


def test_a_reconciliation_makes_a_restored_database_that_of_the_audit(ledger: FakeLedger) -> None:
    ledger.database = "other@localhost, system identifier 7"
    asked = asking(ledger, RequestAction.RECONCILE)
    text = with_lines(text_of(asked, ROSTER), {"Database": "other, system identifier 7"})
    ledger.append(RequestOpened.of(asked, text), asked.id)
    for officer in (ADA, BEN):
        ledger.append(SignatureAdded.of(signature_by(officer, text)), asked.id)
    running(ledger, asked.id)
    state = ledger.replayed()
    assert (state.faults, state.database) == ((), "other, system identifier 7")


def test_an_event_is_not_dated_before_the_one_that_it_follows(ledger: FakeLedger) -> None:
    ledger.clock.at += timedelta(seconds=2)
    ledger.append(PromotionRecorded(1), "e" * 32)
    ledger.clock.at -= timedelta(seconds=1)
    ledger.append(PromotionRecorded(1), "e" * 32)
    assert any("before the event that it follows" in each for each in ledger.replayed().faults)


def test_a_key_that_is_destroyed_is_not_replaced(ledger: FakeLedger) -> None:
    begin = signed_by(ledger, RequestAction.ROTATE)
    fingerprint = ledger.state.keys[V1].fingerprint
    for before, after in ((KeyState.ACTIVE, KeyState.DEACTIVATED), (KeyState.DEACTIVATED, KeyState.ARCHIVED)):
        ledger.append(KeyStateChanged(V1, before, after, fingerprint), begin)
    for number, action in enumerate((RequestAction.DESTROY, RequestAction.REPLACE_KEY)):
        asked = replace(asking(ledger, action), id=f"{number:032x}")
        text = text_of(asked, ROSTER)
        if action is RequestAction.REPLACE_KEY:
            text = re.sub(rb"\nTo: .*", f"\nTo: v1 {'ab' * 32}".encode(), text)
        ledger.append(RequestOpened.of(asked, text), asked.id)
        for officer in (ADA, BEN):
            ledger.append(SignatureAdded.of(signature_by(officer, text)), asked.id)
        running(ledger, asked.id)
    ledger.append(KeyStateChanged(V1, KeyState.ARCHIVED, KeyState.DESTROYED, fingerprint), f"{0:032x}")
    ledger.append(KeyReplaced(V1, fingerprint, "ab" * 32), f"{1:032x}")
    assert newest(ledger, EventKind.KEY_REPLACED).fault == "replaces v1, which is destroyed"


def test_no_number_and_no_key_is_registered_for_both_generations(ledger: FakeLedger) -> None:
    begin = signed_by(ledger, RequestAction.ROTATE)
    key = ledger.state.keys[V1].fingerprint
    for version, fingerprint in ((KeyVersion(1, 2), "ab" * 32), (KeyVersion(2, 2), key)):
        ledger.append(KeyRegistered(version, KeyState.PRE_ACTIVATION, fingerprint, START), begin)
        assert newest(ledger, EventKind.KEY_REGISTERED).fault == (
            f"registers {version} next to v1, for both generations of the format"
        )
    ledger.append(KeyRegistered(KeyVersion(2, 2), KeyState.PRE_ACTIVATION, "ab" * 32, START), begin)
    assert newest(ledger, EventKind.KEY_REGISTERED).fault is None


def test_no_key_is_replaced_by_one_of_the_other_generation(ledger: FakeLedger) -> None:
    begin = signed_by(ledger, RequestAction.ROTATE)
    ledger.append(KeyRegistered(KeyVersion(2, 2), KeyState.PRE_ACTIVATION, "ab" * 32, START), begin)
    asked = replace(asking(ledger, RequestAction.REPLACE_KEY), id=f"{1:032x}")
    text = re.sub(rb"\nTo: .*", f"\nTo: v1 {'ab' * 32}".encode(), text_of(asked, ROSTER))
    ledger.append(RequestOpened.of(asked, text), asked.id)
    for officer in (ADA, BEN):
        ledger.append(SignatureAdded.of(signature_by(officer, text)), asked.id)
    running(ledger, asked.id)
    ledger.append(KeyReplaced(V1, ledger.state.keys[V1].fingerprint, "ab" * 32), asked.id)
    fault = newest(ledger, EventKind.KEY_REPLACED).fault
    assert fault == "gives v1 the key of v2x, for both generations of the format"


def test_a_lost_roster_is_not_pinned_again_by_a_signature_that_is_filed_under_another_time(ledger: FakeLedger) -> None:
    request, text = opened(ledger, RequestAction.RECONCILE)
    for officer in LATER.officers:
        signed = replace(signature_by(officer.fingerprint, text), signed_at=START - timedelta(days=1))
        ledger.append(SignatureAdded.of(signed), request.id)
    ledger.append(RosterPinned.of(LATER, [change(ledger, ADA, BEN)]), request.id)
    assert "says another time" in str(newest(ledger, EventKind.ROSTER_PINNED).fault)


def test_officers_who_signed_different_decisions_have_not_agreed(ledger: FakeLedger) -> None:
    incident = "INC-2026-001"
    ledger.append(
        IncidentOpened(incident, IncidentType.KEY_EXPOSED, "a laptop", START, START, "ops", (V1,), None, None, None, "")
    )
    answers = BreachAnswers(mitigation="none")
    answered = ledger.append(BreachAssessed(incident, "ops", answers)).seq
    for officer, decision in ((ADA, "notices are due"), (BEN, min(NO_NOTICE))):
        lines = (("Incident", incident), ("Database", str(ledger.replayed().place)), ("Decision", decision))
        head = ("Audit head", f"{answered} {ledger.replayed().hash_at(answered)}")
        text = rendered(ASSESSMENT, [*lines, ("Answers", answers.digest()), head]).decode()
        signature = FakeSignatures.sign(officer, text.encode()).hex()
        ledger.append(AssessmentSigned(incident, officer, signature, text))
    fault = newest(ledger, EventKind.ASSESSMENT_SIGNED).fault
    assert fault == "is over another decision than the signatures before"


def test_a_request_that_leaves_its_key_in_use_is_not_that_of_an_incident(ledger: FakeLedger) -> None:
    incident = "INC-2026-001"
    ledger.append(
        IncidentOpened(incident, IncidentType.KEY_EXPOSED, "a laptop", START, START, "ops", (V1,), None, None, None, "")
    )
    ledger.append(EmergencyPrepared(incident, opened(ledger, RequestAction.ROTATE)[0].id))
    fault = newest(ledger, EventKind.EMERGENCY_PREPARED).fault
    assert fault == "prepares a request that does not hold its versions compromised"


def test_after_many_events_that_cannot_have_happened_no_signature_is_verified(ledger: FakeLedger) -> None:
    request, text = opened(ledger, RequestAction.ROTATE)
    for number in range(MOST_FAULTS):
        ledger.append(SignatureAdded(f"{number:040x}", START, b"garbage".hex()), request.id)
    ledger.append(SignatureAdded.of(signature_by(ADA, text)), request.id)
    fault = newest(ledger, EventKind.SIGNATURE_ADDED).fault
    assert fault == f"follows {MOST_FAULTS} events that cannot have happened, and was not verified"


def test_signing_does_not_begin_with_what_is_no_public_key(ledger: FakeLedger) -> None:
    ledger.append(SigningBegun("no base64", ledger.head()))
    assert newest(ledger, EventKind.SIGNING_BEGUN).fault == "begins to sign with no public key"


def test_signing_begins_with_the_key_that_has_signed_backups(ledger: FakeLedger) -> None:
    ledger.append(BackupKeyPinned(PUBLIC))
    ledger.append(SigningBegun("AAAA", ledger.head()))
    fault = newest(ledger, EventKind.SIGNING_BEGUN).fault
    assert fault == "begins to sign with a key that no officers have named"
    ledger.append(SigningBegun(PUBLIC, ledger.head()))
    assert newest(ledger, EventKind.SIGNING_BEGUN).fault is None


def test_signing_begins_after_the_event_that_it_names(ledger: FakeLedger) -> None:
    before = ledger.head()
    ledger.append(BackupKeyPinned(PUBLIC))
    ledger.append(SigningBegun(PUBLIC, before))
    assert newest(ledger, EventKind.SIGNING_BEGUN).fault == "begins to sign another audit"


def test_a_request_does_not_start_after_its_last_date(ledger: FakeLedger) -> None:
    request, text = opened(ledger, RequestAction.ROTATE)
    for officer in (ADA, BEN):
        ledger.append(SignatureAdded.of(signature_by(officer, text)), request.id)
    ledger.clock.at = request.start_by + timedelta(seconds=1)
    ledger.append(StatusChanged(RequestStatus.REQUESTED, RequestStatus.RUNNING, ledger.clock.at), request.id)
    assert newest(ledger, EventKind.STATUS_CHANGED).fault == "starts a request after its last date"


PLACE = "clinic, system identifier 7"
FLEET_RETIRED = KeyRetired(V1, ("north:clients",), 0, 9, "0/1", START, (V1,), (V1,), V2, "backup", members=("north",))


def of_fleet(ledger: FakeLedger, **lines: str) -> str:
    """A rotation over the member north, which officers have signed."""
    request = asking(ledger, RequestAction.ROTATE)
    text = with_lines(text_of(request, ROSTER), {"Place north": f"{PLACE}; 9 values when last counted", **lines})
    ledger.append(RequestOpened.of(request, text), request.id)
    for officer in (ADA, BEN):
        ledger.append(SignatureAdded.of(signature_by(officer, text)), request.id)
    running(ledger, request.id)
    return request.id


def proven(member: str, place: str) -> MemberProven:
    state = MemberState(place, 1, {"clients": "relation 1 file 2 fence 3 4"}, "ab" * 32)
    return MemberProven(MemberEvidence(member, state, (f"{member}:clients",), 0, 9, "0/1", "0/2", START))


def test_a_key_is_not_retired_without_the_evidence_of_each_member(ledger: FakeLedger) -> None:
    request = of_fleet(ledger)
    ledger.append(FLEET_RETIRED, request)
    assert newest(ledger, EventKind.KEY_RETIRED).fault == "lacks the evidence of north"


def test_evidence_of_an_earlier_attempt_retires_no_key(ledger: FakeLedger) -> None:
    request = of_fleet(ledger)
    ledger.append(proven("north", PLACE), request)
    ledger.append(RetirementIntended((V1,), V2), request)
    ledger.append(FLEET_RETIRED, request)
    assert newest(ledger, EventKind.KEY_RETIRED).fault == "lacks the evidence of north"


def test_a_key_is_retired_by_the_members_that_officers_have_signed_and_no_others(ledger: FakeLedger) -> None:
    request = of_fleet(ledger)
    ledger.append(proven("north", PLACE), request)
    ledger.append(replace(FLEET_RETIRED, members=()), request)
    assert newest(ledger, EventKind.KEY_RETIRED).fault == "is not of the members that officers signed: north"
    ledger.append(FLEET_RETIRED, request)
    assert newest(ledger, EventKind.KEY_RETIRED).fault is None


def test_evidence_counts_where_officers_have_signed_the_member_to_be(ledger: FakeLedger) -> None:
    request = of_fleet(ledger)
    ledger.append(proven("north", "clinic, system identifier 8"), request)
    fault = newest(ledger, EventKind.MEMBER_PROVEN).fault
    assert fault == "is of north in another place than officers signed"


def test_evidence_is_of_the_tables_of_its_member_and_of_each_that_officers_signed(ledger: FakeLedger) -> None:
    request = of_fleet(ledger, Columns="clients.name, north:clients.name, north:visits.note")
    evidence = proven("north", PLACE).evidence
    for tables in (("north:clients",), ("south:clients", "north:visits"), ("north:clients", "north:visits", "clients")):
        ledger.append(MemberProven(replace(evidence, tables=tables)), request)
        fault = newest(ledger, EventKind.MEMBER_PROVEN).fault
        assert fault == "is not of the tables of north that officers signed"
    ledger.append(MemberProven(replace(evidence, tables=("north:clients", "north:visits"))), request)
    assert newest(ledger, EventKind.MEMBER_PROVEN).fault is None


@pytest.mark.parametrize("name", ["visits, old", 'say "visits"', "vis\u0456ts", "(visits)", "Größe"])
def test_evidence_is_of_a_table_whose_name_a_signed_text_quotes(ledger: FakeLedger, name: str) -> None:
    request = of_fleet(ledger, Columns=f"north:clients.name, {signed_name(f'north:{name}.note')}")
    evidence = proven("north", PLACE).evidence
    ledger.append(MemberProven(evidence), request)
    fault = newest(ledger, EventKind.MEMBER_PROVEN).fault
    assert fault == "is not of the tables of north that officers signed"
    ledger.append(MemberProven(replace(evidence, tables=("north:clients", f"north:{name}"))), request)
    assert newest(ledger, EventKind.MEMBER_PROVEN).fault is None


@pytest.mark.parametrize(
    ("columns", "walked", "one"),
    [
        pytest.param("north:a.x, north:a.b.c", ("north:a", "north:a.b"), "north:a", id="a table and a schema"),
        pytest.param("north:a.b.c, north:a.b.c", ("north:a", "north:a.b"), "north:a.b", id="a path and a column"),
        pytest.param("north:a.x, north:ab.x", ("north:a", "north:ab"), "north:a", id="a longer name"),
    ],
)
def test_evidence_of_one_table_does_not_stand_for_another(
    ledger: FakeLedger, columns: str, walked: tuple[str, str], one: str
) -> None:
    """A signed text writes a path `b.c` of a table `a` as it writes the column `c` of `a.b`."""
    request = of_fleet(ledger, Columns=columns)
    for table in (*walked, "northern:a.b", "a.b"):
        ledger.append(StepFinished.of(step(Step.ROWS, table, 0)), request)
    evidence = proven("north", PLACE).evidence
    ledger.append(MemberProven(replace(evidence, tables=(one,))), request)
    fault = newest(ledger, EventKind.MEMBER_PROVEN).fault
    assert fault == "is not of the tables of north that officers signed"
    ledger.append(MemberProven(replace(evidence, tables=walked)), request)
    assert newest(ledger, EventKind.MEMBER_PROVEN).fault is None


@pytest.mark.parametrize("other", ["n", "nort", "north_2", "northern"])
def test_evidence_of_a_member_does_not_stand_for_one_whose_name_begins_so(ledger: FakeLedger, other: str) -> None:
    lines = {f"Place {other}": f"{PLACE}; 9 values when last counted"}
    request = of_fleet(ledger, Columns=f"north:clients.name, {other}:clients.name", **lines)
    evidence = proven("north", PLACE).evidence
    ledger.append(MemberProven(replace(evidence, tables=(f"{other}:clients",))), request)
    fault = newest(ledger, EventKind.MEMBER_PROVEN).fault
    assert fault == "is not of the tables of north that officers signed"
    ledger.append(MemberProven(evidence), request)
    assert newest(ledger, EventKind.MEMBER_PROVEN).fault is None
    ledger.append(replace(FLEET_RETIRED, members=("north", other)), request)
    assert newest(ledger, EventKind.KEY_RETIRED).fault == f"lacks the evidence of {other}"


def test_evidence_of_old_values_is_none(ledger: FakeLedger) -> None:
    request = of_fleet(ledger)
    evidence = proven("north", PLACE).evidence
    for old in (replace(evidence, old_values=1), replace(evidence, plaintext=1)):
        ledger.append(MemberProven(old), request)
        assert newest(ledger, EventKind.MEMBER_PROVEN).fault == "counts old values in north"


def test_a_retirement_names_every_table_that_a_member_has_proven(ledger: FakeLedger) -> None:
    request = of_fleet(ledger)
    ledger.append(proven("north", PLACE), request)
    ledger.append(replace(FLEET_RETIRED, tables=("clients",)), request)
    assert newest(ledger, EventKind.KEY_RETIRED).fault == "leaves out tables of north"


RULE = member_line("tenant_*", "tenant_*, system identifier 7")
JOINED = MemberJoined("tenant_1", "tenant_1, system identifier 7")


def test_no_database_joins_that_no_signed_rule_covers(ledger: FakeLedger) -> None:
    ledger.append(HostsPinned((RULE,)))
    ledger.append(replace(JOINED, place="tenant_1, system identifier 8"))
    fault = newest(ledger, EventKind.MEMBER_JOINED).fault
    assert fault == "has tenant_1 join, which no rule covers that officers signed"


def test_no_database_joins_again(ledger: FakeLedger) -> None:
    ledger.append(HostsPinned((RULE,)))
    ledger.append(JOINED)
    assert newest(ledger, EventKind.MEMBER_JOINED).fault is None
    ledger.append(JOINED)
    assert newest(ledger, EventKind.MEMBER_JOINED).fault == "has tenant_1 join again"


def test_a_database_that_joined_after_the_request_gives_evidence_as_its_members_do(ledger: FakeLedger) -> None:
    request = of_fleet(ledger, **{"Place tenant_*": "tenant_*, system identifier 7"})
    ledger.append(JOINED)
    ledger.append(proven("north", PLACE), request)
    ledger.append(FLEET_RETIRED, request)
    assert newest(ledger, EventKind.KEY_RETIRED).fault == "is not of the members that officers signed: tenant_1"
    tables = ("north:clients", "tenant_1:clients")
    retired = replace(FLEET_RETIRED, members=("north", "tenant_1"), tables=tables)
    ledger.append(retired, request)
    assert newest(ledger, EventKind.KEY_RETIRED).fault == "lacks the evidence of tenant_1"
    ledger.append(proven("tenant_1", JOINED.place), request)
    ledger.append(retired, request)
    assert newest(ledger, EventKind.KEY_RETIRED).fault is None


def test_what_is_no_public_key_signs_no_backups(ledger: FakeLedger) -> None:
    ledger.append(BackupKeyPinned("no base64"))
    assert newest(ledger, EventKind.BACKUP_KEY_PINNED).fault == "pins no public key"
