"""Each event has the roster and the text of its moment, and says why it cannot have happened."""

from datetime import timedelta

import pytest

from keyrotation_pipeline.audit.history import HistoryEntry, history, signature_fault, signer_of, whole_history
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.approval import Officer, Roster, Signature
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.request_events import RosterPinned, SignatureAdded, StatusChanged
from keyrotation_pipeline.model.requests import RequestAction, RequestStatus
from keyrotation_pipeline_tests.contract.ledger_suite import opened_as
from keyrotation_pipeline_tests.fakes import ROSTER, START, V1, FakeLedger, FakeSignatures
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

LATER = Roster(2, (Officer("Cem", "C" * 40), Officer("Dan", "D" * 40)), ())
TEXT = b"what they sign"
SIGNATURES = FakeSignatures(ROSTER)


@pytest.fixture
def ledger() -> FakeLedger:
    """v1 is active, and Ada and Ben are the officers."""
    return before_any_rotation().ledger


def signed_by(ledger: FakeLedger, action: RequestAction, roster: Roster) -> str:
    """A running request that these officers have signed."""
    opened = opened_as(action)
    ledger.open(opened, TEXT)
    for officer in roster.officers:
        signature = FakeSignatures.sign(officer.fingerprint, TEXT)
        ledger.add_signature(opened.id, Signature(officer.fingerprint, signature, START + timedelta(days=1)))
    ledger.set_status(opened.id, RequestStatus.RUNNING)
    return opened.id


def newest(ledger: FakeLedger, kind: EventKind) -> HistoryEntry:
    """The same, whether everything is read or only what it depends on."""
    selected, (whole, state) = history(ledger, kind), whole_history(ledger.events())
    assert selected == tuple(each for each in whole if each.kind == kind)
    assert [f"event {each.seq} ({each.kind}) {each.fault}" for each in whole if each.fault] == list(state.faults)
    return selected[-1]


def test_a_signature_has_the_roster_and_the_text_of_its_moment(ledger: FakeLedger) -> None:
    request = signed_by(ledger, RequestAction.POLICY, ROSTER)
    ledger.pin_roster(LATER, request)
    signature = newest(ledger, EventKind.SIGNATURE_ADDED)
    assert (signature.roster, signature.text, signature.fault) == (ROSTER, TEXT, None)
    assert newest(ledger, EventKind.ROSTER_PINNED).roster == LATER
    assert signature_fault(signature, SIGNATURES) is None


def test_a_reconciliation_is_signed_by_officers_of_the_roster_that_it_pins_again(ledger: FakeLedger) -> None:
    request = signed_by(ledger, RequestAction.RECONCILE, LATER)
    assert newest(ledger, EventKind.SIGNATURE_ADDED).roster == ROSTER
    named = history(ledger, EventKind.SIGNATURE_ADDED, reconciled_by=LATER)
    assert {each.roster for each in named} == {LATER}
    ledger.pin_roster(LATER, request)
    assert newest(ledger, EventKind.SIGNATURE_ADDED).roster == LATER


def test_a_roster_that_was_not_signed_for_vouches_for_nothing(ledger: FakeLedger) -> None:
    ledger.append(RosterPinned.of(LATER), None)
    pinned = newest(ledger, EventKind.ROSTER_PINNED)
    assert (pinned.roster, pinned.fault) == (ROSTER, "is of a request that was never opened")
    signed_by(ledger, RequestAction.POLICY, LATER)
    signature = newest(ledger, EventKind.SIGNATURE_ADDED)
    assert signature.roster == ROSTER
    assert str(signature_fault(signature, SIGNATURES)).startswith("does not verify")


@pytest.mark.parametrize("after", [RequestStatus.RUNNING, RequestStatus.FINISHED])
def test_a_request_that_is_over_does_not_come_back(ledger: FakeLedger, after: RequestStatus) -> None:
    request = signed_by(ledger, RequestAction.POLICY, ROSTER)
    ledger.set_status(request, RequestStatus.CANCELLED)
    ledger.append(StatusChanged(RequestStatus.CANCELLED, after, START), request)
    assert newest(ledger, EventKind.STATUS_CHANGED).fault == f"makes a request that is cancelled {after}"


def test_no_key_is_destroyed_by_a_request_to_do_something_else(ledger: FakeLedger) -> None:
    request = signed_by(ledger, RequestAction.POLICY, ROSTER)
    ledger.set_key_state(V1, KeyState.DEACTIVATED, None)
    ledger.set_key_state(V1, KeyState.ARCHIVED, None)
    ledger.set_key_state(V1, KeyState.DESTROYED, request)
    assert newest(ledger, EventKind.KEY_STATE_CHANGED).fault == "is by a request to policy"


def test_a_signature_by_another_than_it_is_filed_under_is_none(ledger: FakeLedger) -> None:
    opened, (ada, ben) = opened_as(RequestAction.POLICY), ROSTER.officers
    ledger.open(opened, TEXT)
    signature = FakeSignatures.sign(ben.fingerprint, TEXT).hex()
    ledger.append(SignatureAdded(ada.fingerprint, START, signature), opened.id)
    forged = newest(ledger, EventKind.SIGNATURE_ADDED)
    assert signature_fault(forged, SIGNATURES) == f"is by {ben.fingerprint[-16:]}"


def test_an_event_that_is_no_signature_has_no_signer(ledger: FakeLedger) -> None:
    with pytest.raises(ApprovalError, match="has no signature"):
        signer_of(newest(ledger, EventKind.ROSTER_PINNED), SIGNATURES)
