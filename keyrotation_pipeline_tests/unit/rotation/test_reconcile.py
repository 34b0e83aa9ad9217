"""A database that was restored to an earlier state is noticed, stops everything, and is reconciled after approval."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from keyrotation_pipeline.audit.divergence import divergence
from keyrotation_pipeline.audit.store_owner import OwnedKeyStore
from keyrotation_pipeline.audit.verify import require_verified, verify_audit, verify_everything
from keyrotation_pipeline.backups.key_loss import restore_key
from keyrotation_pipeline.errors import ApprovalError, AuditError, BlockedError, IncidentError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.incidents.handling import close
from keyrotation_pipeline.incidents.opening import open_incident, prepare
from keyrotation_pipeline.model.approval import Officer
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.environment import DatabaseServer
from keyrotation_pipeline.model.fleet import Instance
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.request_events import DatabaseReconciled, ServerSeen
from keyrotation_pipeline.model.requests import WALK, Request, RequestStatus, Step, Walk
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.requests.roster import require_roster
from keyrotation_pipeline.rotation import rollback, runner
from keyrotation_pipeline.rotation.fences import fences
from keyrotation_pipeline.rotation.reconcile import Plan, open_reconciliation, pending_reconciliation, plan, reconcile
from keyrotation_pipeline_tests.fakes import ROSTER, START, V1, V2, V3, FakeWorld, LedgerState, ProcessKilled
from keyrotation_pipeline_tests.unit.incidents.cases import raised
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, request, sign

NEW = {"first_name": "v2:New", "email": "v2:new@example.org"}


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


def run(world: FakeWorld, rotation: Request, through: Step | None = None) -> None:
    for _ in runner.run(world.pipeline, rotation.id, world.report, through):
        pass


@dataclass
class Dump:
    """What a backup of the database holds: rows, fences and everything in the schema `keyrotation`."""

    rows: dict[str, list[dict[str, str | None]]]
    fences: dict[str, tuple[KeyVersion, ...]]
    ledger: LedgerState

    @classmethod
    def of(cls, world: FakeWorld) -> "Dump":
        content = (world.database.rows, world.database.fence_state, world.ledger.state)
        return cls(*copy.deepcopy(content))

    def restore(self, world: FakeWorld) -> None:
        world.database.rows, world.database.fence_state, world.ledger.state = copy.deepcopy(
            (self.rows, self.fences, self.ledger)
        )


def restored_after_a_rotation(world: FakeWorld, dumped_after: Step | None) -> Walk:
    """v1 → v2 to its end, then the database as it was after one of the steps; None: before the request."""
    dump = Dump.of(world)
    rotation = approved(world)
    if dumped_after is not None:
        run(world, rotation, dumped_after)
        dump = Dump.of(world)
    run(world, rotation)
    dump.restore(world)
    return rotation


def signed(world: FakeWorld) -> Request:
    opened, _ = open_reconciliation(world.pipeline, requested_by="dba")
    for officer in (ADA, BEN):
        sign(world, opened, officer)
    return world.ledger.request(opened.id)


def reconciled(world: FakeWorld) -> Plan:
    return reconcile(world.pipeline, signed(world))


def states(world: FakeWorld) -> dict[KeyVersion, KeyState]:
    return {version: record.state for version, record in world.ledger.state.keys.items()}


@pytest.mark.parametrize("undo", [False, True], ids=["rotation", "rollback"])
def test_no_crash_of_a_walk_is_taken_for_a_restored_database(world: FakeWorld, undo: bool) -> None:
    rotation = approved(world)
    if undo:
        run(world, rotation)
        rotation = rollback.open_rollback(world.pipeline, rotation, reason="slow", requested_by="dba")
        for officer in (ADA, BEN):
            sign(world, rotation, officer)
    allowed = deaths = 0
    while world.ledger.walk(rotation.id).status is not RequestStatus.FINISHED:
        world.journal.die_at = len(world.journal.entries) + allowed
        before = world.ledger.walk(rotation.id).steps
        try:
            run(world, rotation)
        except ProcessKilled:
            deaths += 1
            world.ledger.locks.clear()
            allowed = allowed + 1 if world.ledger.walk(rotation.id).steps == before else 0
        assert divergence(world.pipeline, world.keys.read()).findings == ()
    assert deaths > len(WALK)


DUMPED = [None, *WALK[:-1]]


@pytest.mark.parametrize("dumped_after", DUMPED)
def test_a_restored_database_is_noticed_and_nothing_changes_it(world: FakeWorld, dumped_after: Step | None) -> None:
    rotation = restored_after_a_rotation(world, dumped_after)
    assert divergence(world.pipeline, world.keys.read())
    before = (copy.deepcopy(world.database.rows), world.keys.versions(), states(world))
    for change in attempts(world, rotation, dumped_after):
        with pytest.raises(BlockedError, match=r"was restored.*keyrotation reconcile"):
            change()
    assert (world.database.rows, world.keys.versions(), states(world)) == before


@pytest.mark.parametrize("dumped_after", DUMPED[: DUMPED.index(Step.RETIRED_KEY)])
def test_the_key_store_alone_gives_it_away_until_the_old_key_is_retired(
    world: FakeWorld, dumped_after: Step | None
) -> None:
    restored_after_a_rotation(world, dumped_after)
    world.anchors.kept = None
    assert divergence(world.pipeline, world.keys.read())


def attempts(world: FakeWorld, rotation: Walk, dumped_after: Step | None) -> Iterator[Callable[[], object]]:
    if dumped_after is None:
        world.keys.primary_version = V1  # nearer to unnoticed
        yield lambda: request(world)
        return
    yield lambda: run(world, rotation)
    yield lambda: rollback.open_rollback(world.pipeline, rotation, reason="x", requested_by="dba")


@pytest.mark.parametrize("dumped_after", DUMPED)
def test_reconciled_every_key_that_rows_need_is_live_and_the_next_rotation_ends(
    world: FakeWorld, dumped_after: Step | None
) -> None:
    restored_after_a_rotation(world, dumped_after)
    world.database.rows["clients"].append(dict(NEW))  # the application writes on, under what the key store names
    needed = {str(value).partition(":")[0] for row in world.database.rows["clients"] for value in row.values()}
    seen_to_be_gone = states(world)[V1] is KeyState.ARCHIVED
    reconciled(world)
    assert needed <= {str(version) for version in world.keys.versions()}
    assert (world.keys.primary(), states(world)[V2]) == (V2, KeyState.ACTIVE)
    # In the archive, too, until somebody has seen that all instances are without it.
    assert states(world)[V1] is (KeyState.ARCHIVED if seen_to_be_gone else KeyState.DEACTIVATED)
    assert not set(world.keys.versions()) & set(world.database.fence_state.get("clients", ()))
    assert (
        divergence(world.pipeline, world.keys.read()).findings,
        world.ledger.current(),
        pending_reconciliation(world.pipeline.ledger),
    ) == ((), None, None)
    rotation = approved(world)
    run(world, rotation)
    assert rotation.target == V3
    assert {str(value)[:3] for row in world.database.rows["clients"] for value in row.values()} == {"v3:"}
    assert (world.keys.versions(), world.keys.archived()) == ((V3,), (V1, V2))
    retired = world.ledger.walk(rotation.id).done(Step.RETIRED_KEY)
    assert retired is not None
    assert retired.facts["taken_from_applications"] == (["v2"] if seen_to_be_gone else ["v1", "v2"])
    assert states(world) == {V1: KeyState.ARCHIVED, V2: KeyState.ARCHIVED, V3: KeyState.ACTIVE}
    verify_audit(world.ledger)


def test_a_database_from_before_a_change_of_officers_is_reconciled_by_those_who_are_officers_now(
    world: FakeWorld,
) -> None:
    dump, cem = Dump.of(world), Officer("Cem", "C" * 40)
    changed = replace(ROSTER, officers=(ROSTER.officers[0], cem))
    world.signatures.configured = changed
    policy = open_policy(world.pipeline, reason="Ben leaves", requested_by="dba")
    for officer in (ADA, BEN):
        sign(world, policy, officer)
    change_policy(world.pipeline, policy)
    dump.restore(world)
    with pytest.raises(AuditError, match="this home has seen; run `keyrotation reconcile`"):
        request(world)
    opened, _ = open_reconciliation(world.pipeline, requested_by="dba")
    text = world.ledger.approval_text(opened.id).decode()
    assert (f"pin again {changed}" in text, "words of the program" in text) == (True, False)
    with pytest.raises(ApprovalError, match="not over this text"):
        sign(world, opened, BEN)
    for officer in (ADA, cem.fingerprint):
        sign(world, opened, officer)
    reconcile(world.pipeline, world.ledger.request(opened.id))
    assert require_roster(world.pipeline) == changed
    assert request(world).source == V1


def test_two_rotations_back_the_version_between_is_registered_again_and_never_reused(world: FakeWorld) -> None:
    dump = Dump.of(world)
    run(world, approved(world))
    run(world, approved(world))
    dump.restore(world)
    reconciled(world)
    assert states(world) == {V1: KeyState.DEACTIVATED, V2: KeyState.DEACTIVATED, V3: KeyState.ACTIVE}
    assert request(world).target == KeyVersion(4)


@pytest.mark.parametrize("dumped_after", [None, Step.KEY_VERSION, Step.ROWS, Step.ZERO_OLD_ROWS_PROOF])
def test_a_reconciliation_that_dies_at_any_change_ends_the_same_when_it_is_run_again(
    world: FakeWorld, dumped_after: Step | None
) -> None:
    restored_after_a_rotation(world, dumped_after)
    world.database.rows["clients"].append(dict(NEW))
    opened, deaths = signed(world), 0
    while world.ledger.request(opened.id).status is not RequestStatus.FINISHED:
        world.journal.die_at = len(world.journal.entries) + deaths
        try:
            reconcile(world.pipeline, opened)
        except ProcessKilled:
            deaths += 1
            world.ledger.locks.clear()
    world.journal.die_at = None
    assert deaths >= 5
    assert divergence(world.pipeline, world.keys.read()).findings == ()
    assert states(world)[V2] is KeyState.ACTIVE


def test_officers_sign_the_states_that_are_set_and_the_anchor_that_is_abandoned(world: FakeWorld) -> None:
    rotation = restored_after_a_rotation(world, Step.KEY_VERSION)
    kept = world.anchors.kept
    opened, _ = open_reconciliation(world.pipeline, requested_by="dba")
    text = world.ledger.approval_text(opened.id).decode()
    assert kept is not None
    assert "Action: reconcile\n" in text
    assert "primary v2, live v1, v2; states v1 deactivated, v2 active; " in text
    assert "words of the program" not in text
    assert f"end {rotation.id}; accept that event {kept.seq} {kept.hash} (nor 1 older) is not in the audit" in text


def test_what_one_officer_signed_is_not_done(world: FakeWorld) -> None:
    restored_after_a_rotation(world, None)
    opened, _ = open_reconciliation(world.pipeline, requested_by="dba")
    sign(world, opened, ADA)
    with pytest.raises(ApprovalError, match="needs 1 more signature"):
        reconcile(world.pipeline, opened)
    assert world.keys.versions() == (V2,)


def test_what_changed_since_it_was_signed_is_not_done(world: FakeWorld) -> None:
    restored_after_a_rotation(world, None)
    opened = signed(world)
    world.keys.live[V3] = KeyMaterial.generate()
    with pytest.raises(ApprovalError, match="Authorises"):
        reconcile(world.pipeline, opened)


def test_a_request_to_reconcile_is_withdrawn_without_touching_a_key(world: FakeWorld) -> None:
    restored_after_a_rotation(world, None)
    opened, _ = open_reconciliation(world.pipeline, requested_by="dba")
    cancel(world.pipeline, opened)
    assert (pending_reconciliation(world.pipeline.ledger), world.keys.versions()) == (None, (V2,))


def test_a_request_to_reconcile_is_no_rotation(world: FakeWorld) -> None:
    restored_after_a_rotation(world, None)
    opened = signed(world)
    with pytest.raises(RequestError, match="is not a rotation"):
        run(world, opened)


@pytest.mark.parametrize(("named", "option"), [(True, "`"), (False, " --key FILE`")])
def test_a_key_that_rows_need_and_nobody_has_is_put_back_first(world: FakeWorld, named: bool, option: str) -> None:
    restored_after_a_rotation(world, None)
    del world.keys.shelf[V1]
    world.pipeline = replace(world.pipeline, keys=OwnedKeyStore(world.keys, world.ledger, recovery_key_named=named))
    with pytest.raises(BlockedError, match=f"keyrotation restore-key v1{option}"):
        open_reconciliation(world.pipeline, requested_by="dba")


@pytest.mark.parametrize(
    ("value", "place"), [pytest.param("v2:x", "archive", id="unneeded"), pytest.param("v1:x", "live", id="needed")]
)
def test_a_key_that_is_not_needed_and_is_put_back_later_does_not_go_to_applications(
    world: FakeWorld, value: str, place: str
) -> None:
    # As after `recover` from a set that was rekeyed to v2: its audit is older, and the key store lacks v1.
    restored_after_a_rotation(world, None)
    world.database.rows = {"clients": [{"first_name": "v2:x", "email": None}]}
    material = world.keys.shelf.pop(V1)
    reconciled(world)
    world.database.rows["clients"].append({"first_name": value, "email": None})
    assert restore_key(world.pipeline, V1, material, "a backup").place == place


def test_tables_restored_alone_get_their_key_back_and_lose_the_fence(world: FakeWorld) -> None:
    rows = copy.deepcopy(world.database.rows)
    run(world, approved(world))
    world.database.rows = rows
    assert not divergence(world.pipeline, world.keys.read())
    reconciled(world)
    assert (world.keys.versions(), states(world)[V1]) == ((V1, V2), KeyState.DEACTIVATED)
    assert V1 not in world.database.fence_state["clients"]


def test_one_that_runs_is_not_cancelled_and_one_that_was_cancelled_changes_nothing(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored_after_a_rotation(world, Step.ROWS)
    opened, refused = signed(world), list[str]()

    def next_to_it(*_arguments: object) -> None:
        with pytest.raises(BlockedError) as refusal:
            cancel(world.pipeline, opened)
        refused.append(str(refusal.value))
        raise ProcessKilled

    with monkeypatch.context() as patched:
        patched.setattr(type(world.pipeline.fencing), "unfence", next_to_it)
        with pytest.raises(ProcessKilled):
            reconcile(world.pipeline, opened)
    assert refused == ["reconcile is locked by another process; wait for it"]
    world.ledger.locks.clear()
    cancel(world.pipeline, opened)
    before = list(world.journal.entries)
    with pytest.raises(RequestError, match="is cancelled; run `keyrotation reconcile`"):
        reconcile(world.pipeline, opened)
    assert world.journal.entries == before


def test_a_database_that_was_not_restored_has_nothing_to_reconcile(world: FakeWorld) -> None:
    run(world, approved(world))
    with pytest.raises(RequestError, match="nothing to reconcile"):
        open_reconciliation(world.pipeline, requested_by="dba")


@pytest.mark.parametrize(
    ("anchor", "sentence"),
    [
        pytest.param(lambda head: AuditHead(head.seq + 5, "ab" * 32), "names event", id="beyond the end"),
        pytest.param(lambda head: AuditHead(head.seq, "ab" * 32), "is not the one that a copy outside", id="a fork"),
    ],
)
def test_a_backups_manifest_that_knows_another_audit_gives_it_away(
    world: FakeWorld, anchor: Callable[[AuditHead], AuditHead], sentence: str
) -> None:
    run(world, approved(world))
    world.anchors.written = [world.ledger.head(), anchor(world.ledger.head())]
    found = divergence(world.pipeline, world.keys.read())
    assert found.unknown == (world.anchors.written[1],)
    assert sentence in found.findings[0]
    reconciled(world)
    assert not divergence(world.pipeline, world.keys.read())


# --- fences that somebody took away -----------------------------------------------------------------------------------


@pytest.fixture
def retired(world: FakeWorld) -> FakeWorld:
    """v1 was retired, and somebody has taken the fence of one table away."""
    run(world, approved(world))
    world.database.fence_state["clients"] = ()
    return world


def test_a_lost_fence_stands_again_when_officers_have_signed_for_it(retired: FakeWorld) -> None:
    assert fences(retired.pipeline).lost == (("clients", V1),)
    (sentence,) = fences(retired.pipeline).attention()
    assert sentence.endswith("and have them refused again with `keyrotation reconcile`")
    opened, _ = open_reconciliation(retired.pipeline, requested_by="dba")
    assert opened.reason == "table clients accepts v1 again, which was retired in it"
    text = retired.ledger.approval_text(opened.id).decode()
    assert ("; refuse v1 in clients" in text, "words of the program" in text) == (True, False)
    sign(retired, opened, ADA)
    with pytest.raises(ApprovalError, match="needs 1 more signature"):
        reconcile(retired.pipeline, opened)
    assert not retired.database.fence_state["clients"]
    sign(retired, opened, BEN)
    reconcile(retired.pipeline, opened)
    assert retired.database.fence_state["clients"] == (V1,)
    assert (fences(retired.pipeline).lost, states(retired)[V1]) == ((), KeyState.ARCHIVED)
    with pytest.raises(RequestError, match="nothing to reconcile"):
        open_reconciliation(retired.pipeline, requested_by="dba")
    verify_audit(retired.ledger)


def test_a_fence_that_is_put_back_keeps_what_else_the_table_refuses(retired: FakeWorld) -> None:
    run(retired, approved(retired))
    retired.database.fence_state["clients"] = (V2,)
    reconciled(retired)
    assert retired.database.fence_state["clients"] == (V1, V2)


def test_a_version_that_values_came_under_again_is_not_refused_but_made_readable(retired: FakeWorld) -> None:
    retired.database.rows["clients"].append({"first_name": "v1:Old", "email": None})
    reconciled(retired)
    assert (V1 in retired.keys.versions(), retired.database.fence_state["clients"]) == (True, ())


def test_a_rotation_under_way_is_not_ended_for_a_fence_that_it_will_put_back(retired: FakeWorld) -> None:
    rotation = approved(retired)
    (sentence,) = fences(retired.pipeline).attention()
    assert sentence.endswith(f"and rotation {rotation.id} will refuse them again")
    with pytest.raises(RequestError, match="nothing to reconcile"):
        open_reconciliation(retired.pipeline, requested_by="dba")
    run(retired, rotation)
    assert fences(retired.pipeline).lost == ()


# --- the audit, from its first event ----------------------------------------------------------------------------------


def changed_long_ago(world: FakeWorld) -> None:
    """Behind the back of this process, which has verified that event before."""
    require_verified(world.pipeline, but=divergence(world.pipeline, world.keys.read()).unknown)
    events = world.ledger.state.events
    events[0] = replace(events[0], body=events[0].body.replace("test", "else").replace("2026", "2025"))


def test_neither_a_reconciliation_nor_a_rollback_begins_over_an_audit_that_was_changed_long_ago(
    world: FakeWorld,
) -> None:
    rotation = restored_after_a_rotation(world, None)
    opened = signed(world)
    changed_long_ago(world)
    with pytest.raises(AuditError, match=r"does not follow event|was changed"):
        reconcile(world.pipeline, opened)
    world.ledger.set_status(opened.id, RequestStatus.CANCELLED)
    with pytest.raises(AuditError, match=r"does not follow event|was changed"):
        open_reconciliation(world.pipeline, requested_by="dba")
    assert (rotation.target in world.keys.versions(), V1 in world.keys.archived()) == (True, True)


def test_no_rollback_is_opened_over_an_audit_that_was_changed_long_ago(world: FakeWorld) -> None:
    rotation = approved(world)
    run(world, rotation)
    changed_long_ago(world)
    with pytest.raises(AuditError, match=r"does not follow event|was changed"):
        rollback.open_rollback(world.pipeline, world.ledger.walk(rotation.id), reason="x", requested_by="dba")


# --- what a reconciliation abandons -----------------------------------------------------------------------------------


def test_anchors_are_not_abandoned_by_an_event_that_nobody_signed(world: FakeWorld) -> None:
    """The owner cuts the audit, and writes that what was cut need not be there."""
    restored_after_a_rotation(world, Step.KEY_VERSION)
    found = divergence(world.pipeline, world.keys.read())
    assert found.unknown
    opened, decided = open_reconciliation(world.pipeline, requested_by="owner")
    world.ledger.refuses = False
    world.ledger.set_status(opened.id, RequestStatus.RUNNING)
    world.ledger.append(forged(decided, found.unknown), opened.id)
    world.ledger.set_status(opened.id, RequestStatus.FINISHED)
    assert divergence(world.pipeline, world.keys.read()).unknown == found.unknown
    with pytest.raises(AuditError, match=r"is by a request that too few have signed|an anchor names"):
        require_verified(world.pipeline)


def test_officers_who_gave_one_head_up_gave_up_no_other(world: FakeWorld) -> None:
    """The owner takes the signed request of an earlier reconciliation, and writes other heads into its event."""
    restored_after_a_rotation(world, Step.KEY_VERSION)
    opened = signed(world)
    other = AuditHead(10**6, "ab" * 32)
    world.ledger.refuses = False
    world.ledger.set_status(opened.id, RequestStatus.RUNNING)
    world.ledger.append(forged(plan(world.pipeline), (*plan(world.pipeline).found.unknown, other)), opened.id)
    world.ledger.set_status(opened.id, RequestStatus.FINISHED)
    world.anchors.kept = other
    assert other in divergence(world.pipeline, world.keys.read()).unknown


def test_what_a_replay_of_this_process_remembers_as_given_up_excuses_no_anchor_of_a_whole_verification(
    world: FakeWorld,
) -> None:
    other = AuditHead(10**6, "ab" * 32)
    world.ledger.replayed().abandoned.add(other)  # by a reconciliation that is no longer in the audit
    world.anchors.kept = other
    require_verified(world.pipeline)
    missing = rf"events {world.ledger.head().seq + 1} to 1000000 were cut off"
    with pytest.raises(AuditError, match=missing):
        require_verified(world.pipeline, afresh=True)
    with pytest.raises(AuditError, match=missing):
        verify_everything(world.pipeline)


def forged(decided: Plan, accepted: tuple[AuditHead, ...]) -> DatabaseReconciled:
    return DatabaseReconciled("restored", decided.primary, decided.in_rows, {}, (), accepted)


@pytest.mark.parametrize("named", [("v1",), ("v1", "v2")])
def test_an_incident_of_a_key_that_only_the_archive_has_ends_once_no_instance_is_seen_to_have_it(
    world: FakeWorld, named: tuple[str, ...]
) -> None:
    restored_after_a_rotation(world, Step.ZERO_OLD_ROWS_PROOF)
    reconciled(world)
    assert (states(world)[V1], world.keys.archived()) == (KeyState.DEACTIVATED, (V1,))
    incident = open_incident(world.pipeline, raised(1, versions=named))
    if named == ("v1",):
        with pytest.raises(IncidentError, match="nobody saw every instance without it"):
            prepare(world.pipeline, incident, "test")
        rotation = approved(world)
    else:
        rotation = prepare(world.pipeline, incident, "test")
        for officer in (ADA, BEN):
            sign(world, rotation, officer)
    run(world, rotation)
    retired = world.ledger.walk(rotation.id).done(Step.RETIRED_KEY)
    assert retired is not None
    assert retired.facts["taken_from_applications"] == ["v1", "v2"]
    assert close(world.pipeline, incident.id, "test").closed_at is not None
    following = approved(world)
    run(world, following)
    retired = world.ledger.walk(following.id).done(Step.RETIRED_KEY)
    assert retired is not None
    assert retired.facts["taken_from_applications"] == ["v3"]


def retired_in_the_restored_audit(world: FakeWorld) -> None:
    restored_after_a_rotation(world, Step.RETIRED_KEY)
    reconciled(world)


def retired_by_a_rotation_that_is_not_over(world: FakeWorld) -> None:
    run(world, approved(world), Step.RETIRED_KEY)


def retired_by_a_rotation_that_is_rolled_back(world: FakeWorld) -> None:
    """v1 was seen to be gone once; then it came back, and was withdrawn again."""
    rotation = approved(world)
    run(world, rotation)
    undoing = rollback.open_rollback(world.pipeline, rotation, reason="slow", requested_by="dba")
    for officer in (ADA, BEN):
        sign(world, undoing, officer)
    run(world, undoing)
    run(world, approved(world), Step.RETIRED_KEY)


@pytest.mark.parametrize(
    "withdrawn",
    [
        retired_in_the_restored_audit,
        retired_by_a_rotation_that_is_not_over,
        retired_by_a_rotation_that_is_rolled_back,
    ],
)
def test_an_emergency_waits_until_no_instance_has_a_key_that_was_retired_and_not_seen_to_be_gone(
    world: FakeWorld, withdrawn: Callable[[FakeWorld], None]
) -> None:
    withdrawn(world)
    assert (states(world)[V1], V1 in world.keys.archived()) == (KeyState.DEACTIVATED, True)
    primary = world.keys.contents().ring().primary
    incident = open_incident(world.pipeline, raised(1, versions=("v1", str(primary))))
    emergency = prepare(world.pipeline, incident, "test")
    for officer in (ADA, BEN):
        sign(world, emergency, officer)
    run(world, emergency, Step.RETIRED_KEY)
    world.rollout.running = (Instance("web-1", (V1, emergency.target), emergency.target, START),)
    with pytest.raises(BlockedError, match=rf"web-1 \(reads v1, {emergency.target}\): not seen to be without v1, "):
        run(world, emergency)
    world.rollout.running = None
    run(world, emergency)
    assert states(world)[V1] is KeyState.COMPROMISED
    assert close(world.pipeline, incident.id, "test").closed_at is not None
    run(world, following := approved(world))
    retired = world.ledger.walk(following.id).done(Step.RETIRED_KEY)
    assert retired is not None
    assert retired.facts["taken_from_applications"] == [str(emergency.target)], "it is waited for once"


def test_a_store_that_names_nobody_is_claimed_by_a_signed_reconciliation(world: FakeWorld) -> None:
    restored_after_a_rotation(world, None)
    world.keys.owner = None  # as after a recovery, which has put its keys back
    reconcile(world.pipeline, signed(world))
    assert world.keys.owner is not None
    assert world.keys.owner.home == world.ledger.replayed().home
    assert not divergence(world.pipeline, world.keys.read())


def test_a_walk_goes_on_where_officers_signed_that_the_database_has_moved(world: FakeWorld) -> None:
    rotation = approved(world)
    run(world, rotation, Step.DUAL_KEY_ROLLOUT)
    world.database.server = DatabaseServer("10.0.0.6:5432", 2)
    moved = "a walk is under way that was requested where the database ran on 10.0.0.5:5432"
    with pytest.raises(BlockedError, match=moved):
        run(world, rotation)
    opened = signed(world)
    text = world.ledger.approval_text(opened.id).decode()
    assert "Authorises: continue on 10.0.0.6:5432, timeline 2\n" in text
    assert "words of the program" not in text
    keys = world.keys.contents()
    reconcile(world.pipeline, opened)
    assert (world.keys.contents().live, world.keys.primary()) == (keys.live, keys.primary)
    assert world.ledger.walk(rotation.id).status is RequestStatus.RUNNING
    run(world, rotation)
    assert world.ledger.request(rotation.id).status is RequestStatus.FINISHED


def test_the_databases_owner_cannot_say_that_it_has_moved_in_the_middle_of_a_walk(world: FakeWorld) -> None:
    rotation = approved(world)
    world.database.server = DatabaseServer("10.0.0.6:5432", 2)
    world.ledger.append(ServerSeen(world.database.server))
    with pytest.raises(BlockedError, match="a walk is under way"):
        run(world, rotation)
