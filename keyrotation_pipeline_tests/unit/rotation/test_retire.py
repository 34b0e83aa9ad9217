"""Retiring a key, with the ports in memory: on what evidence, in which order, and what a death in between leaves."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from keyrotation_pipeline.errors import (
    ApprovalError,
    BackupError,
    BlockedError,
    DefinitionChangedError,
    KeyRotationError,
    KeyStoreError,
    OutOfOrderError,
    ProofError,
    StaleWriterError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.environment import NEVER_SEARCHED, BlindSpots, Unsearched
from keyrotation_pipeline.model.fleet import Instance
from keyrotation_pipeline.model.key_events import KeyRetired, ProvenAgain
from keyrotation_pipeline.model.keys import KeyRecord, KeyState, StoredKeys
from keyrotation_pipeline.model.progress import Wait
from keyrotation_pipeline.model.proof import (
    AccountedReplica,
    MemberEvidence,
    MemberState,
    Proven,
    SnapshotPosition,
    ZeroOldRows,
)
from keyrotation_pipeline.model.records import as_json, read
from keyrotation_pipeline.model.requests import Step, StepRecord, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation import retire
from keyrotation_pipeline.rotation.prove import prove_zero_old_rows
from keyrotation_pipeline_tests.fakes import (
    CLIENTS,
    START,
    V1,
    V2,
    V3,
    FakeWorld,
    ProcessKilled,
    fake_pipeline,
    rotation_of,
)

ROWS = {"clients": [{"first_name": "v1:Ada", "email": None}]}
INTENT, RETIRED = "retire_key_intended", "key_retired"


class Authority:
    """Stands in for the verification of signatures, which has tests of its own: counts, and may refuse."""

    def __init__(self) -> None:
        self.asked_at_depth: list[int] = []
        self.refuses = False

    def require(self, pipeline: Pipeline, rotation: Walk, stored: StoredKeys) -> None:  # noqa: ARG002 - as the real one
        self.asked_at_depth.append(pipeline.ledger.depth)  # type: ignore[attr-defined]
        if self.refuses:
            raise ApprovalError("a signature has expired; have another officer sign")


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch) -> Authority:
    stand_in = Authority()
    monkeypatch.setattr(retire, "require_authorised", stand_in.require)
    return stand_in


@pytest.fixture
def world(authority: Authority) -> FakeWorld:
    """A world in which v1 is proven gone; waiting moves the fake clock."""
    made = fake_pipeline(ROWS)
    proven(made)
    return made


def proven(world: FakeWorld, source: KeyVersion = V1, target: KeyVersion = V2) -> Walk:
    rotation = rotation_of(world, source, target)
    proof = prove_zero_old_rows(world.pipeline, rotation, world.report)
    world.ledger.finish_step(rotation.id, StepRecord(Step.ZERO_OLD_ROWS_PROOF, None, None, START, as_json(proof)))
    return world.ledger.walk(rotation.id)


def moment_of(world: FakeWorld) -> SnapshotPosition:
    """Of the proof, which the audit holds."""
    rotation = world.ledger.current()
    assert rotation is not None
    record = rotation.done(Step.ZERO_OLD_ROWS_PROOF)
    assert record is not None
    return read(Proven, record.facts).moment


def proven_under_a_snapshot(world: FakeWorld, session: str, seconds: float | None = None) -> None:
    """Somebody who reads since before the last write and the proof, for so long or for ever."""
    world.database.begin(session, until=None if seconds is None else world.clock.now() + timedelta(seconds=seconds))
    world.database.update("clients", 0, {"email": "v2:since"})
    rotation = world.ledger.current()
    assert rotation is not None
    proof = prove_zero_old_rows(world.pipeline, rotation, world.report)
    world.ledger.append(ProvenAgain(proof, "a test asked for it"), rotation.id)


def retire_now(world: FakeWorld) -> dict[str, object]:
    rotation = world.ledger.current()
    assert rotation is not None
    return as_json(retire.retire_key(world.pipeline, rotation, world.report))


def test_the_old_key_leaves_the_applications_and_is_kept(world: FakeWorld, authority: Authority) -> None:
    facts = retire_now(world)

    assert world.keys.versions() == (V2,)
    assert world.keys.archived() == (V1,)
    assert facts["taken_from_applications"] == ["v1"]
    assert facts["old_values"] == 0
    assert authority.asked_at_depth == [1], "the signatures are verified inside the retiring transaction"


def test_intent_is_committed_first_and_the_key_goes_last_before_the_outcome_commits(world: FakeWorld) -> None:
    retire_now(world)
    assert world.journal.entries[-7:] == [
        f"event {INTENT}",
        "keys.name_owner",
        "event replicas_accounted",
        f"event {RETIRED}",
        "keys.archive v1",
        "keys.move v1",
        "commit",
    ]


def test_the_evidence_is_asked_for_the_moment_that_the_proof_recorded(world: FakeWorld) -> None:
    moment = moment_of(world)
    world.pipeline.evidence.current_xid()
    retire_now(world)
    assert world.database.proven_with == [moment]


def test_other_live_versions_are_taken_too_and_recorded(world: FakeWorld) -> None:
    world.keys.live[V3] = KeyMaterial.generate()
    world.ledger.state.keys[V3] = KeyRecord(V3, KeyState.DEACTIVATED, world.keys.live[V3].fingerprint, START)
    world.database.fence_state["clients"] = (V1, V3)

    facts = retire_now(world)

    assert facts["taken_from_applications"] == ["v1", "v3"]
    assert world.keys.versions() == (V2,)


def test_a_left_over_of_an_older_version_than_the_source_keeps_every_key(authority: Authority) -> None:
    world = fake_pipeline({"clients": [{"first_name": "v2:Ada", "email": None}]})
    world.keys.live[V3] = KeyMaterial.generate()
    world.keys.primary_version = V3
    world.ledger.state.keys[V3] = KeyRecord(V3, KeyState.ACTIVE, world.keys.live[V3].fingerprint, START)
    world.vault.store_key(V3, world.keys.live[V3], world.ledger.head())
    proven(world, V2, V3)
    world.database.rows["clients"].append({"first_name": "v1:From an old dump", "email": None})

    with pytest.raises(ProofError, match="still under v1"):
        retire_now(world)

    assert world.keys.versions() == (V1, V2, V3)


def test_a_live_key_that_was_never_registered_is_left_alone(world: FakeWorld) -> None:
    world.keys.live[V3] = KeyMaterial.generate()
    retire_now(world)
    assert world.keys.versions() == (V2, V3)


def without_backup(world: FakeWorld, authority: Authority) -> None:
    del world.vault.backups[V2]


def other_key_under_the_target(world: FakeWorld, authority: Authority) -> None:
    world.keys.live[V2] = KeyMaterial.generate()


def old_primary(world: FakeWorld, authority: Authority) -> None:
    world.rollout.running = world.rollout.instances()
    world.keys.primary_version = V1


def stale_instance(world: FakeWorld, authority: Authority) -> None:
    world.rollout.running = (*world.rollout.instances(), Instance("worker-3", (V1, V2), V1, START))


def withdrawn_approval(world: FakeWorld, authority: Authority) -> None:
    authority.refuses = True


def snapshot_that_stays(world: FakeWorld, authority: Authority) -> None:
    proven_under_a_snapshot(world, "12 (pg_dump)")


def no_proof(world: FakeWorld, authority: Authority) -> None:
    rotation = world.ledger.current()
    assert rotation is not None
    world.ledger.state.requests[rotation.id] = replace(rotation, steps=())


def quarantined_value(world: FakeWorld, authority: Authority) -> None:
    world.database.unreadable = {("clients", 0, "email")}


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        pytest.param(without_backup, BackupError, "no intact backup of v2", id="target without backup"),
        pytest.param(other_key_under_the_target, KeyStoreError, "the key store holds another v2", id="another key"),
        pytest.param(old_primary, KeyStoreError, "names v1 as primary, not v2", id="old primary"),
        pytest.param(stale_instance, StaleWriterError, r"worker-3 \(writes v1\)", id="stale instance"),
        pytest.param(withdrawn_approval, ApprovalError, "expired", id="approval"),
        pytest.param(snapshot_that_stays, BlockedError, r"session 12 \(pg_dump\)", id="old snapshot"),
        pytest.param(no_proof, OutOfOrderError, "no proof of zero old rows", id="no proof"),
        pytest.param(quarantined_value, ProofError, "in quarantine", id="evidence missing"),
    ],
)
def test_a_missing_piece_keeps_the_key_where_it_is(
    world: FakeWorld,
    authority: Authority,
    spoil: Callable[[FakeWorld, Authority], None],
    error: type[KeyRotationError],
    sentence: str,
) -> None:
    spoil(world, authority)
    with pytest.raises(error, match=sentence):
        retire_now(world)
    assert world.keys.versions() == (V1, V2)
    assert RETIRED not in world.ledger.event_names()


def test_an_old_snapshot_is_waited_for_outside_any_transaction_and_named_meanwhile(world: FakeWorld) -> None:
    proven_under_a_snapshot(world, "12 (report)", 2 * retire.HORIZON_PAUSE_SECONDS)

    retire_now(world)

    named = "session 12 (report) is in a transaction and may still see old values; wait until it ends"
    assert [each.note for each in world.reported if each.step is Step.RETIRED_KEY] == [named] * 2
    assert (world.clock.now() - START).total_seconds() == 2 * retire.HORIZON_PAUSE_SECONDS
    assert world.keys.archived() == (V1,)


def test_a_fence_changed_after_the_proof_blocks_is_proven_again_and_then_lets_go_on(world: FakeWorld) -> None:
    world.pipeline.fencing.unfence(CLIENTS, V1)
    world.database.rows["clients"].append({"first_name": "v1:Stale", "email": None})

    with pytest.raises(ProofError, match=r"nothing was retired, and the tables have been proven and fenced again"):
        retire_now(world)

    assert world.keys.versions() == (V1, V2)
    assert world.database.rows["clients"][1]["first_name"] == "v2:Stale"
    assert "column first_name: a value is still under v1" in world.ledger.facts_of(EventKind.PROVEN_AGAIN)["because"]
    retire_now(world)
    assert world.keys.archived() == (V1,)
    (used,) = world.database.proven_with
    assert used.xid > moment_of(world).xid, "the repeated proof counts, not the one before"


@pytest.mark.parametrize("is_rollback", [False, True])
def test_plaintext_that_the_count_has_let_pass_stops_whatever_is_no_rollback(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch, is_rollback: bool
) -> None:
    """What it rests on there is read from rows that the database's owner can change."""
    real = type(world.pipeline.evidence).zero_old_rows
    monkeypatch.setattr(
        type(world.pipeline.evidence), "zero_old_rows", lambda *given: replace(real(*given), plaintext=3)
    )
    monkeypatch.setattr(Walk, "encrypts_plaintext", not is_rollback)
    if is_rollback:
        retire_now(world)
        assert world.keys.archived() == (V1,)
    else:
        with pytest.raises(ProofError, match=r"^of 3 values in an old form, only a rollback leaves any"):
            retire_now(world)
        assert world.keys.archived() == ()


def test_plaintext_that_the_count_of_a_member_has_let_pass_stops_a_rotation(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = MemberState("clinic, system identifier 7", 1, {}, "")
    north = MemberEvidence("north", state, ("north:clients",), 0, 9, "0/1", "0/2", START, plaintext=3)
    monkeypatch.setattr(type(world.pipeline.evidence), "members", lambda *_given: iter([north]))
    with pytest.raises(ProofError, match=r"^of 3 values in an old form, only a rollback leaves any"):
        retire_now(world)
    assert world.keys.archived() == ()
    assert list(world.ledger.events(EventKind.MEMBER_PROVEN)) == []


def definition_changed(world: FakeWorld, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The definition of a table changes between proof and retirement, so many times."""
    evidence, left = world.pipeline.evidence, [None] * times
    real = type(evidence).zero_old_rows

    def changed(*arguments: Any) -> ZeroOldRows:  # noqa: ANN401
        if left:
            left.pop()
            raise DefinitionChangedError("the rights were changed; find out who it was")
        return real(*arguments)

    monkeypatch.setattr(type(evidence), "zero_old_rows", changed)


def test_a_changed_definition_is_proven_again_and_lets_go_on_at_once(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition_changed(world, monkeypatch, retire.REPETITIONS)
    retire_now(world)
    assert world.keys.archived() == (V1,)
    names = world.ledger.event_names()
    assert names.count(str(EventKind.PROVEN_AGAIN)) == retire.REPETITIONS
    assert "the rights were changed" in world.ledger.facts_of(EventKind.PROVEN_AGAIN)["because"]
    (used,) = world.database.proven_with
    assert used.xid > moment_of(world).xid


def test_a_definition_that_changes_all_the_time_stops_the_retirement(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition_changed(world, monkeypatch, retire.REPETITIONS + 1)
    with pytest.raises(ProofError, match="nothing was retired, and the tables have been proven and fenced again"):
        retire_now(world)
    assert world.keys.versions() == (V1, V2)


def test_dying_at_any_change_and_retiring_again_ends_with_one_outcome(
    monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    for die_at in range(7):
        world = fake_pipeline(ROWS)
        proven(world)
        world.journal.die_at = len(world.journal.entries) + die_at
        with pytest.raises(ProcessKilled):
            retire_now(world)
        assert RETIRED not in world.ledger.event_names(), "what was not committed was not recorded"
        assert (V1 in world.keys.archived()) is (die_at == 6)

        world.journal.die_at = None
        facts = retire_now(world)

        assert facts["taken_from_applications"] == ["v1"]
        assert (world.keys.versions(), world.keys.archived()) == ((V2,), (V1,))
        assert world.ledger.event_names().count(RETIRED) == 1


def test_the_chain_has_how_each_replica_was_accounted_for_and_who_signed_that_one_is_gone(world: FakeWorld) -> None:
    world.database.replicas = (
        AccountedReplica("reports@local", "standby", START, START, "0/5"),
        AccountedReplica("exports@local", "standby", START, START, None),
    )
    world.database.unseen = BlindSpots((Unsearched("bit strings", ("scans.pixels",)),))
    facts = retire_now(world)
    assert world.ledger.event_names().index("replicas_accounted") < world.ledger.event_names().index(RETIRED)
    accounted = world.ledger.facts_of("replicas_accounted")
    assert [(each["name"], each["replayed"]) for each in accounted["replicas"]] == [
        ("reports@local", "0/5"),
        ("exports@local", None),
    ]
    assert (accounted["gone_as_signed"], accounted["gone_as_configured"]) == ([], ["exports@local"])
    assert "bit strings (scans.pixels)" in str(facts["not_searched"])


def test_what_was_not_read_again_under_the_locks_is_named_where_the_rotation_ends(world: FakeWorld) -> None:
    world.database.too_large = ("audit.log", "clients")
    facts = retire_now(world)
    at = "2026-01-05 09:00:00"
    assert facts["not_read_again"] == ["audit.log", "clients"]
    assert read(KeyRetired, facts).unread == (
        f"not read again for the retirement of v1: what was written between {at} and {at} UTC, unencrypted or in "
        "undeclared columns, into pages that were there before of audit.log, clients; run `keyrotation inventory`"
    )


def test_nothing_is_named_where_all_was_read_under_the_locks(world: FakeWorld) -> None:
    assert read(KeyRetired, retire_now(world)).unread is None


def test_a_replica_that_was_declared_gone_before_the_officers_signed_is_gone_by_their_signatures(
    authority: Authority,
) -> None:
    world = fake_pipeline(ROWS)
    world.database.unseen = BlindSpots(NEVER_SEARCHED, gone=("exports@local",))
    world.database.replicas = (AccountedReplica("exports@local", "standby", START, START, None),)
    proven(world)
    retire_now(world)
    assert world.ledger.facts_of("replicas_accounted")["gone_as_signed"] == ["exports@local"]


def test_whom_the_retirement_waits_for_is_noted_until_it_continues(world: FakeWorld) -> None:
    rotation = world.ledger.current()
    assert rotation is not None
    proven_under_a_snapshot(world, "7", retire.HORIZON_PAUSE_SECONDS)
    noted: list[tuple[Wait, ...]] = []
    sleep = world.clock.sleep

    def watched(seconds: float) -> None:
        noted.append(world.ledger.waits(rotation.id))
        sleep(seconds)

    world.clock.sleep = watched  # type: ignore[method-assign]
    retire_now(world)
    sentence = "session 7 is in a transaction and may still see old values; wait until it ends"
    assert noted == [(Wait("retired_key", sentence, START),)]
    assert world.ledger.waits(rotation.id) == ()
