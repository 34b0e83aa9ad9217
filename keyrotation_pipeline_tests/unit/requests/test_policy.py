"""A change of the rules: what is signed, by whom, and that it is pinned whole or not at all."""

from dataclasses import replace

import pytest

from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.errors import ApprovalError, OutOfOrderError, RequestError
from keyrotation_pipeline.model.approval import HEADER, Officer, Roster, Signature
from keyrotation_pipeline.model.earlier_summaries import FIRST_APPROVAL, SECOND_APPROVAL
from keyrotation_pipeline.model.requests import Request, RequestStatus
from keyrotation_pipeline.requests.approvals import add_approval, is_as_signed, require_authorised
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.requests.policy import (
    change_policy,
    changed_hosts,
    open_policy,
    pending_policy,
    pin_hosts,
    signed_hosts,
)
from keyrotation_pipeline.requests.roster import pinned_roster, require_roster, require_usable
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation.runner import next_decision
from keyrotation_pipeline_tests.fakes import ROSTER, FakeSignatures, FakeWorld, ProcessKilled
from keyrotation_pipeline_tests.signed_texts import with_lines
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, request

CEM = Officer("Cem", "C" * 40)
NEW = Roster(2, (ROSTER.officers[0], CEM), ("F" * 40,))


@pytest.fixture
def world() -> FakeWorld:
    world = before_any_rotation()
    world.signatures.configured = NEW
    return world


def opened(world: FakeWorld, *officers: str) -> Request:
    policy = open_policy(world.pipeline, reason="Ben leaves", requested_by="dba")
    text = world.ledger.approval_text(policy.id)
    for officer in officers:
        add_approval(world.pipeline, policy, FakeSignatures.sign(officer, text))
    return policy


def test_both_rosters_are_signed_whole_the_same_in_whatever_order(world: FakeWorld) -> None:
    text = world.ledger.approval_text(opened(world).id).decode()
    assert f'From: 2 of "Ada" ({ADA}), "Ben" ({BEN}); recipients ({"F" * 40})\n' in text
    assert f'To: 2 of "Ada" ({ADA}), "Cem" ({"C" * 40}); recipients ({"F" * 40})\n' in text
    assert f'Can approve nothing any more: "Ben" ({BEN}). Can approve from then on: "Cem" ({"C" * 40}).\n' in text
    assert str(replace(NEW, officers=NEW.officers[::-1])) == str(NEW)


def test_a_name_cannot_be_written_so_that_it_reads_as_two_officers() -> None:
    sly = Roster(2, (Officer(f'Ada" ({BEN}), "Ben', ADA), CEM), ("F" * 40,))
    assert f'"Ada\\" ({BEN}), \\"Ben" ({ADA})' in str(sly)


def test_two_pinned_officers_change_the_roster(world: FakeWorld) -> None:
    policy = opened(world, ADA, BEN)
    assert change_policy(world.pipeline, policy) == NEW
    assert (require_roster(world.pipeline), pending_policy(world.pipeline.ledger)) == (NEW, None)
    assert world.ledger.request(policy.id).status is RequestStatus.FINISHED
    assert world.anchors.kept == world.ledger.head()
    with pytest.raises(RequestError, match="is finished"):
        change_policy(world.pipeline, policy)


def test_one_signature_changes_nothing(world: FakeWorld) -> None:
    with pytest.raises(ApprovalError, match="needs 1 more signature"):
        change_policy(world.pipeline, opened(world, ADA))
    assert world.ledger.pinned_roster() == ROSTER


def test_the_signature_of_an_officer_who_is_to_come_does_not_count(world: FakeWorld) -> None:
    with pytest.raises(ApprovalError, match="not over this text"):
        opened(world, ADA, CEM.fingerprint)


def test_what_the_file_says_otherwise_since_is_not_pinned(world: FakeWorld) -> None:
    policy = opened(world, ADA, BEN)
    world.signatures.configured = replace(NEW, required=1)
    with pytest.raises(ApprovalError, match=r"for signing says \(To\); restore that, or cancel it"):
        change_policy(world.pipeline, policy)
    assert world.ledger.pinned_roster() == ROSTER


def test_a_change_that_dies_at_any_point_is_whole_or_not_there(world: FakeWorld) -> None:
    policy, deaths = opened(world, ADA, BEN), 0
    while world.ledger.request(policy.id).status is not RequestStatus.FINISHED:
        assert world.ledger.pinned_roster() == ROSTER
        world.journal.die_at = len(world.journal.entries) + deaths
        try:
            change_policy(world.pipeline, policy)
        except ProcessKilled:
            deaths += 1
            world.ledger.locks.clear()
    # The last death was before the key store followed.
    assert (deaths, world.ledger.pinned_roster(), world.keys.roster) == (5, NEW, ROSTER.digest)


def test_a_withdrawn_request_leaves_what_is_pinned(world: FakeWorld) -> None:
    policy = opened(world, ADA, BEN)
    cancel(world.pipeline, policy)
    with pytest.raises(RequestError, match="is cancelled"):
        change_policy(world.pipeline, policy)


def test_a_file_that_says_what_is_pinned_asks_for_nothing(world: FakeWorld) -> None:
    world.signatures.configured = replace(ROSTER, officers=ROSTER.officers[::-1])
    with pytest.raises(RequestError, match="that are pinned; change"):
        opened(world)


def test_a_request_that_has_begun_counts_under_the_roster_that_it_began_under(world: FakeWorld) -> None:
    world.signatures.configured = ROSTER
    rotation = approved(world)
    world.ledger.set_status(rotation.id, RequestStatus.RUNNING)
    world.signatures.configured = NEW
    change_policy(world.pipeline, opened(world, ADA, BEN))
    require_authorised(world.pipeline, rotation, world.keys.read())
    assert next_decision(Situation(world.pipeline), rotation).tasks
    world.ledger.set_status(rotation.id, RequestStatus.FINISHED)
    assert world.ledger.replayed().faults == ()


def test_a_request_that_has_not_begun_is_not_started_by_officers_who_have_left(world: FakeWorld) -> None:
    world.signatures.configured = ROSTER
    rotation = approved(world)
    world.signatures.configured = NEW
    change_policy(world.pipeline, opened(world, ADA, BEN))
    with pytest.raises(ApprovalError, match="no longer what its text for signing says"):
        require_authorised(world.pipeline, rotation, world.keys.read())
    with pytest.raises(OutOfOrderError, match="too few have signed"):
        world.ledger.set_status(rotation.id, RequestStatus.RUNNING)


def test_whoever_has_left_or_come_signs_nothing_that_has_begun(world: FakeWorld) -> None:
    three = Roster(2, (*ROSTER.officers, CEM), ROSTER.recipients)
    world.signatures.configured = three
    change_policy(world.pipeline, opened(world, ADA, BEN))
    rotation = request(world)
    text = world.ledger.approval_text(rotation.id)
    for officer in (ADA, BEN):
        add_approval(world.pipeline, rotation, FakeSignatures.sign(officer, text))
    world.ledger.set_status(rotation.id, RequestStatus.RUNNING)
    dan = Officer("Dan", "D" * 40)
    world.signatures.configured = Roster(2, (*ROSTER.officers, dan), ROSTER.recipients)
    change_policy(world.pipeline, opened(world, ADA, BEN))
    for officer in (CEM.fingerprint, dan.fingerprint):
        with pytest.raises(ApprovalError, match="not over this text"):
            add_approval(world.pipeline, rotation, FakeSignatures.sign(officer, text))
    forged = Signature(CEM.fingerprint, FakeSignatures.sign(CEM.fingerprint, text), world.clock.now())
    with pytest.raises(OutOfOrderError, match="has no good signature"):
        world.ledger.add_signature(rotation.id, forged)


def test_an_officer_whose_certificate_has_expired_is_dropped_in_the_middle_of_an_emergency(world: FakeWorld) -> None:
    three = Roster(2, (*ROSTER.officers, CEM), ROSTER.recipients)
    world.signatures.configured = three
    change_policy(world.pipeline, opened(world, ADA, BEN))
    emergency = request(world, incident="INC-1")
    text = world.ledger.approval_text(emergency.id)
    for officer in (ADA, BEN):
        add_approval(world.pipeline, emergency, FakeSignatures.sign(officer, text))
    world.ledger.set_status(emergency.id, RequestStatus.RUNNING)
    world.signatures.expired[CEM.fingerprint] = world.clock.now()
    require_authorised(world.pipeline, emergency, world.keys.read())
    world.signatures.configured = ROSTER
    change_policy(world.pipeline, opened(world, ADA, BEN))
    require_authorised(world.pipeline, emergency, world.keys.read())
    assert pinned_roster(world.pipeline) == ROSTER


def test_another_officer_signs_in_place_of_one_whose_certificate_has_expired_since(world: FakeWorld) -> None:
    three = Roster(2, (*ROSTER.officers, CEM), ROSTER.recipients)
    world.signatures.configured = three
    change_policy(world.pipeline, opened(world, ADA, BEN))
    rotation = request(world)
    text = world.ledger.approval_text(rotation.id)
    for officer in (ADA, BEN):
        add_approval(world.pipeline, rotation, FakeSignatures.sign(officer, text))
    world.ledger.set_status(rotation.id, RequestStatus.RUNNING)
    world.clock.sleep(60)
    world.signatures.expired[ADA] = world.clock.now()
    with pytest.raises(ApprovalError, match=r"needs 1 more signature.*Ada has expired"):
        require_authorised(world.pipeline, rotation, world.keys.read())
    add_approval(world.pipeline, rotation, FakeSignatures.sign(CEM.fingerprint, text))
    require_authorised(world.pipeline, rotation, world.keys.read())
    assert world.ledger.replayed().faults == ()


@pytest.mark.parametrize(
    ("expired", "after", "sentence"),
    [
        pytest.param(CEM, NEW, "Cem has expired", id="who is to come cannot sign"),
        pytest.param(ROSTER.officers[0], Roster(3, (*ROSTER.officers, CEM), ("F" * 40,)), "only 2", id="too few could"),
    ],
)
def test_a_roster_that_could_not_sign_is_not_pinned(
    world: FakeWorld, expired: Officer, after: Roster, sentence: str
) -> None:
    world.signatures.configured, world.signatures.expired = after, {expired.fingerprint: world.clock.now()}
    with pytest.raises(ApprovalError, match=sentence):
        opened(world)


def test_a_roster_that_is_pinned_meanwhile_is_not_taken_for_a_change_from_outside(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.signatures.configured = ROSTER
    before = pinned_roster(world.pipeline)
    world.signatures.configured = NEW
    policy = opened(world, ADA, BEN)
    replayed = world.ledger.replayed

    def pinned_after() -> LedgerState:
        state = replayed()
        monkeypatch.undo()
        change_policy(world.pipeline, policy)
        return state

    monkeypatch.setattr(world.ledger, "replayed", pinned_after)
    assert pinned_roster(world.pipeline) == before
    assert pinned_roster(world.pipeline) == NEW


def test_the_first_roster_is_pinned_with_certificates_that_can_sign(world: FakeWorld) -> None:
    require_usable(world.pipeline.signatures, NEW)
    world.signatures.revoked.add(CEM.fingerprint)
    with pytest.raises(ApprovalError, match="Cem is revoked"):
        require_usable(world.pipeline.signatures, NEW)


def test_nobody_new_has_a_name_of_several_scripts_and_who_was_pinned_keeps_it(world: FakeWorld) -> None:
    sly = replace(NEW, officers=(ROSTER.officers[0], replace(CEM, name="\u0410da")))
    with pytest.raises(ApprovalError, match=r'officer "\\u0410da" has letters of several scripts'):
        require_usable(world.pipeline.signatures, sly)
    require_usable(world.pipeline.signatures, sly, sly)


SECRET = "alerts.smtp.password in the variable SMTP_PASSWORD"


@pytest.mark.parametrize("header", [FIRST_APPROVAL, SECOND_APPROVAL, HEADER])
def test_a_request_of_the_first_form_goes_on_whatever_secrets_are_sent_and_one_of_the_present_form_does_not(
    world: FakeWorld, header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.signatures.configured = ROSTER
    world.pipeline = replace(world.pipeline, hosts=("alerts.smtp mail:587 with STARTTLS",))
    as_opened = world.ledger.open
    with monkeypatch.context() as patched:
        patched.setattr(world.ledger, "open", lambda each, text: as_opened(each, with_lines(text, {}, header)))
        walk = request(world)
    text = world.ledger.approval_text(walk.id)
    assert text.startswith(header.encode())
    assert is_as_signed(world.pipeline, walk)
    for officer in (ADA, BEN):
        add_approval(world.pipeline, walk, FakeSignatures.sign(officer, text))
    world.pipeline = replace(world.pipeline, secrets=(SECRET,))
    stored = world.pipeline.keys.read()
    if header == FIRST_APPROVAL:
        require_authorised(world.pipeline, world.ledger.walk(walk.id), stored)
    else:
        with pytest.raises(ApprovalError, match=r"text for signing says \(Secrets\)"):
            require_authorised(world.pipeline, world.ledger.walk(walk.id), stored)


def test_a_policy_signs_the_places_of_secrets(world: FakeWorld) -> None:
    world.signatures.configured = ROSTER
    world.pipeline = replace(world.pipeline, hosts=("alerts.smtp mail:587 with STARTTLS",))
    pin_hosts(world.pipeline)
    assert list(changed_hosts(world.pipeline)) == []
    world.pipeline = replace(world.pipeline, secrets=(SECRET,))
    said = list(changed_hosts(world.pipeline))
    assert f"({SECRET} is new)" in said[0]
    assert (
        said[1] == "mail is sent without its password until officers have signed the server and where the password is"
    )
    change_policy(world.pipeline, opened(world, ADA, BEN))
    assert list(changed_hosts(world.pipeline)) == []
    assert SECRET in (signed_hosts(world.pipeline) or ())
