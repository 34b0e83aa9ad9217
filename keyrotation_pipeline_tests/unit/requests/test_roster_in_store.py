"""The key store names the pinned roster: it follows the audit, through deaths and races, and is never led by it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.errors import (
    AuditError,
    BlockedError,
    KeyStoreUnavailableError,
    NotOurKeyStoreError,
    RequestError,
)
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.keys import StoredKeys, StoreOwner
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.conductor import Task
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.requests.roster import (
    authority_to_reconcile,
    claim_store,
    pinned_roster,
    require_known_to_store,
)
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import ROSTER, V1, FakeSignatures, FakeWorld, ProcessKilled
from keyrotation_pipeline_tests.unit.requests.test_policy import NEW, opened, world
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved

__all__ = ["world"]
OTHER = "0d" * 32


def intents(world: FakeWorld) -> int:
    return len(list(world.ledger.events(EventKind.ROSTER_KEEPING_INTENDED)))


@contextmanager
def dying_at(world: FakeWorld, entry: str) -> Iterator[None]:
    """The process dies before that change."""
    note = world.journal.note

    def die(reported: str) -> None:
        if reported == entry:
            raise ProcessKilled(entry)
        note(reported)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.keys.journal, "note", die)
        yield


def test_a_change_of_the_rules_moves_what_the_key_store_names(world: FakeWorld) -> None:
    change_policy(world.pipeline, opened(world, ADA, BEN))
    assert world.keys.roster == NEW.digest
    assert intents(world) == 1


def test_a_death_between_audit_and_key_store_is_no_divergence_and_the_next_change_completes_it(
    world: FakeWorld,
) -> None:
    policy = opened(world, ADA, BEN)
    with dying_at(world, "keys.name_owner"), pytest.raises(ProcessKilled):
        change_policy(world.pipeline, policy)
    assert (pinned_roster(world.pipeline), world.keys.roster) == (NEW, ROSTER.digest)
    require_consistent(world.pipeline, world.keys.read())
    with pytest.raises(RequestError, match="names the officers"):
        open_policy(world.pipeline, reason="again", requested_by="dba")
    assert world.keys.roster == NEW.digest


def test_a_key_store_that_is_ahead_of_the_audit_stops_everything_until_its_officers_reconcile(
    world: FakeWorld,
) -> None:
    """As after a failover that lost the end of the audit, on a machine whose home is lost too."""
    world.keys.roster = NEW.digest
    with pytest.raises(BlockedError, match=r"names a roster \(.*\) that was never pinned in the database"):
        require_consistent(world.pipeline, world.keys.read())
    assert authority_to_reconcile(world.pipeline) == NEW  # by the configuration, of which the key store has the digest


def test_whoever_the_key_store_does_not_name_has_no_authority_to_reconcile(world: FakeWorld) -> None:
    world.keys.roster = OTHER
    with pytest.raises(AuditError, match=r"names a roster .* put it back there"):
        authority_to_reconcile(world.pipeline)


def test_a_store_that_does_not_say_whose_it_is_is_claimed_once_its_keys_are_tried_and_no_step_does_so(
    world: FakeWorld,
) -> None:
    world.signatures.configured = ROSTER
    world.keys.owner = None
    rotation = approved(world)
    with pytest.raises(NotOurKeyStoreError, match="does not say whose keys it holds; run `keyrotation init`"):
        runner.run_step(world.pipeline, rotation.id, Task(Step.KEY_VERSION), world.report)
    with pytest.raises(NotOurKeyStoreError):
        world.pipeline.keys.archive(V1, world.keys.contents().revision)
    assert (world.keys.owner, world.keys.archived()) == (None, ())
    claim_store(world.pipeline, world.keys.contents(), tried=True)
    assert world.keys.roster == ROSTER.digest
    (event,) = world.ledger.events(EventKind.ROSTER_KEEPING_INTENDED)
    assert ROSTER.digest in event.body
    assert '"before":null' in event.body


def test_of_two_processes_the_one_that_decided_from_an_older_state_decides_again(world: FakeWorld) -> None:
    old = world.keys.read()  # a step of another process, in the middle of which the rules are changed
    change_policy(world.pipeline, opened(world, ADA, BEN))
    assert claim_store(world.pipeline, old).roster == NEW.digest
    assert world.keys.roster == NEW.digest


def test_a_key_store_that_takes_no_change_leaves_the_new_rules_pinned_and_says_so(world: FakeWorld) -> None:
    policy = opened(world, ADA, BEN)

    def unavailable(_owner: StoreOwner, _revision: str) -> StoredKeys:
        raise KeyStoreUnavailableError("AWS throttles; try again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.keys, "name_owner", unavailable)
        with pytest.raises(KeyStoreUnavailableError):
            change_policy(world.pipeline, policy)
    assert pinned_roster(world.pipeline) == NEW
    claim_store(world.pipeline, world.keys.read())
    assert world.keys.roster == NEW.digest


def test_a_new_home_believes_what_the_key_store_vouches_for_and_not_an_audit_that_lacks_it(world: FakeWorld) -> None:
    world.keys.roster = OTHER
    assert world.anchors.kept_roster is None
    with pytest.raises(AuditError, match="is not the one that the key store has seen"):
        pinned_roster(world.pipeline)
    world.keys.damaged = "the fake key store is damaged; fix it"
    assert pinned_roster(world.pipeline) == ROSTER  # so that `status` can still say what is wrong with the store


def test_a_database_begins_only_with_the_roster_that_its_keys_know(world: FakeWorld) -> None:
    require_known_to_store(world.pipeline.keys, ROSTER)
    with pytest.raises(AuditError, match="others: `keyrotation docs officers`"):
        require_known_to_store(world.pipeline.keys, replace(NEW, required=3))
    world.keys.roster = None
    require_known_to_store(world.pipeline.keys, NEW)


def test_a_signature_on_another_roster_than_the_key_store_names_changes_nothing(world: FakeWorld) -> None:
    policy = opened(world, ADA)
    world.keys.roster = OTHER
    text = world.ledger.approval_text(policy.id)
    world.anchors.kept_roster = None
    with pytest.raises(AuditError, match="the key store has seen"):
        add_approval(world.pipeline, policy, FakeSignatures.sign(BEN, text))
