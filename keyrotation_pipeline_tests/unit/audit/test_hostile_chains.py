"""Nothing without a quorum is ever accepted, nothing honest is ever rejected, and each rule is needed for that."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from random import Random

import pytest

from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import AuditEvent, AuditHead
from keyrotation_pipeline.model.backup_events import SigningBegun
from keyrotation_pipeline_tests.fakes import FakeLedger
from keyrotation_pipeline_tests.fakes.event_key import signed, verify_event
from keyrotation_pipeline_tests.unit.audit import test_history
from keyrotation_pipeline_tests.unit.audit.honest_chains import Installation, installation
from keyrotation_pipeline_tests.unit.audit.hostile_chains import Generator, chained
from keyrotation_pipeline_tests.unit.audit.rule_removal import WITNESSES, Rule, achieves, all_rules, without
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

CHAINS, BATCHES = 10_000, 25
FORGED = (250, pytest.param(1_000, marks=pytest.mark.extended))
NORMALLY = 1  # batch; `pytest -m extended` takes the others


@pytest.fixture(scope="module")
def made() -> Installation:
    return installation()


@pytest.fixture(scope="module")
def generator(made: Installation) -> Generator:
    return Generator(made)


def test_nothing_honest_is_rejected(made: Installation, generator: Generator) -> None:
    for name, bodies in made.chains.items():
        state = LedgerState(made.verify, verify_event=verify_event).apply(chained(bodies))
        assert (name, state.faults) == (name, ())
        assert list(generator.judge.violations(bodies, state, state.counted)) == []


@pytest.mark.parametrize(
    "batch", [pytest.param(each, marks=[pytest.mark.extended] if each >= NORMALLY else []) for each in range(BATCHES)]
)
def test_nothing_without_a_quorum_is_accepted(generator: Generator, batch: int) -> None:
    size = CHAINS // BATCHES
    found = [each for seed in range(batch * size, (batch + 1) * size) for each in generator.violations(seed)]
    assert found == []


@pytest.mark.parametrize("chains", FORGED)
def test_nothing_that_the_owner_of_the_database_alone_writes_is_accepted(
    made: Installation, generator: Generator, chains: int
) -> None:
    """Without the key: signatures that were made stay where they are, or stand elsewhere; others are of no home."""
    rewritten = 0
    for seed in range(chains):
        name, bodies, done = generator.chain(seed)
        honest, rng = list(chained(made.chains[name])), Random(seed)
        forged = tuple(without_key(rng, chained(bodies), honest))
        if forged == tuple(honest):
            continue
        try:
            state = LedgerState(made.verify, verify_event=verify_event).apply(forged)
        except AuditError:
            continue
        head = AuditHead(honest[-1].seq, honest[-1].hash)
        is_shorter = list(forged) == honest[: len(forged)]  # which the head that the home has stored shows
        if not is_shorter and any(each.kind == SigningBegun.kind and each in honest for each in forged):
            assert (seed, done, state.faults) != (seed, done, ())
            rewritten += 1
        assert state.faults or state.missing([head])
    assert rewritten > chains // 5


def without_key(rng: Random, bodies: Iterable[AuditEvent], honest: list[AuditEvent]) -> Iterator[AuditEvent]:
    known = {event.hash: event.signature for event in honest}
    for event in bodies:
        others = (None, rng.choice(honest).signature, signed(event, "RXZl").signature)
        yield replace(event, signature=known.get(event.hash) or rng.choice(others))


# What takes more than one corrupt officer, or more luck than ten thousand chains have: the case that only it refuses.
BY_UNIT_TEST: dict[str, Callable[[FakeLedger], None]] = {
    "begins to sign with no public key": test_history.test_signing_does_not_begin_with_what_is_no_public_key,
    "begins to sign with a key that no officers have named": (
        test_history.test_signing_begins_with_the_key_that_has_signed_backups
    ),
    "begins to sign another audit": test_history.test_signing_begins_after_the_event_that_it_names,
    "goes on in {} otherwise than officers signed": test_history.test_a_member_goes_on_only_as_officers_have_signed,
    "leaves a tree that officers have not signed": (
        test_history.test_a_tree_at_witnesses_is_left_only_as_officers_have_signed
    ),
    "is to be signed without what it decrypts": test_history.test_a_request_to_decrypt_says_what_it_decrypts,
    "is to be signed for what it decrypts, which it does not": test_history.test_no_other_request_says_that_it_decrypts,
    "starts a request after its last date": test_history.test_a_request_does_not_start_after_its_last_date,
    "pins no public key": test_history.test_what_is_no_public_key_signs_no_backups,
    "pins a roster by a change that the audit has not lost": (
        test_history.test_a_change_of_the_roster_that_was_undone_is_not_used_again
    ),
    "is by a request whose signature {} says another time": (
        test_history.test_a_lost_roster_is_not_pinned_again_by_a_signature_that_is_filed_under_another_time
    ),
    "replaces {}, which is destroyed": test_history.test_a_key_that_is_destroyed_is_not_replaced,
    "registers {} next to {}, for both generations of the format": (
        test_history.test_no_number_and_no_key_is_registered_for_both_generations
    ),
    "gives {} the key of {}, for both generations of the format": (
        test_history.test_no_key_is_replaced_by_one_of_the_other_generation
    ),
    "is of another database, which nobody has reconciled": (
        test_history.test_an_event_of_another_database_is_a_fault_and_changes_nothing_that_takes_signatures
    ),
    "follows {} events that cannot have happened, and was not verified": (
        test_history.test_after_many_events_that_cannot_have_happened_no_signature_is_verified
    ),
    "prepares a request that does not hold its versions compromised": (
        test_history.test_a_request_that_leaves_its_key_in_use_is_not_that_of_an_incident
    ),
    "has {} join, which no rule covers that officers signed": (
        test_history.test_no_database_joins_that_no_signed_rule_covers
    ),
    "has {} join again": test_history.test_no_database_joins_again,
    "is of {} in another place than officers signed": (
        test_history.test_evidence_counts_where_officers_have_signed_the_member_to_be
    ),
    "is not of the tables of {} that officers signed": (
        test_history.test_evidence_is_of_the_tables_of_its_member_and_of_each_that_officers_signed
    ),
    "counts old values in {}": test_history.test_evidence_of_old_values_is_none,
    "leaves out tables of {}": test_history.test_a_retirement_names_every_table_that_a_member_has_proven,
    "is not of the members that officers signed: {}": (
        test_history.test_a_key_is_retired_by_the_members_that_officers_have_signed_and_no_others
    ),
    "lacks the evidence of {}": test_history.test_a_key_is_not_retired_without_the_evidence_of_each_member,
    "is over another decision than the signatures before": (
        test_history.test_officers_who_signed_different_decisions_have_not_agreed
    ),
}


@pytest.mark.parametrize("rule", all_rules(), ids=str)
def test_without_one_rule_something_is_accepted(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, rule: Rule
) -> None:
    """`witnesses.json` says which chain; one that is none any more is searched for, which takes a minute."""
    without(rule, monkeypatch)
    if (only_case := BY_UNIT_TEST.get(rule.message)) is not None:
        ledger = before_any_rotation().ledger
        ledger.refuses = False
        with pytest.raises((AssertionError, ValueError)):
            only_case(ledger)
    else:
        known = json.loads(WITNESSES.read_text()).get(str(rule), 0)
        assert any(achieves(generator.violations, seed) for seed in (known, *range(CHAINS)))


def test_each_case_that_only_one_rule_refuses_names_a_rule() -> None:
    assert {rule.message for rule in all_rules()} >= BY_UNIT_TEST.keys()
