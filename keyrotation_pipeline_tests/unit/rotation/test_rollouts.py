"""No instance seen is not every instance: what a walk waits for, and what ends the wait."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from keyrotation_pipeline.backups.key_loss import restore_key
from keyrotation_pipeline.errors import (
    ApprovalError,
    AuditError,
    BlockedError,
    KeyRotationError,
    KeyStoreUnavailableError,
    OutOfOrderError,
    RequestError,
    StaleWriterError,
)
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.earlier_summaries import FIRST_CONFIRMATION
from keyrotation_pipeline.model.fleet import (
    Confirmation,
    Gone,
    Instance,
    RolloutMode,
    RolloutTarget,
    TargetKind,
)
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.pending import PendingCode, pending_rollout
from keyrotation_pipeline.model.request_events import RolloutConfirmed
from keyrotation_pipeline.model.requests import RequestStatus, Step, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import takeover
from keyrotation_pipeline.requests.conductor import Task
from keyrotation_pipeline.requests.confirming import add_confirmation, confirmation_text, target_at
from keyrotation_pipeline.requests.control import pause, resume
from keyrotation_pipeline.requests.roster import claim_store, pinned_roster
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import deploy, replace_key, runner
from keyrotation_pipeline.rotation.keys import import_keys
from keyrotation_pipeline.rotation.rollback import open_rollback
from keyrotation_pipeline.rotation.rollout import pending, seen_facts
from keyrotation_pipeline_tests.fakes import START, V1, V2, FakeClock, FakeSignatures, FakeWorld, ProcessKilled
from keyrotation_pipeline_tests.fakes.world import newest_nonce
from keyrotation_pipeline_tests.signed_texts import with_lines
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, sign

CAROL = "C" * 40


@pytest.fixture
def world() -> FakeWorld:
    """Before any rotation; no application instance reports itself."""
    world = before_any_rotation()
    world.rollout.running = ()
    return world


@pytest.fixture
def rotation(world: FakeWorld) -> Walk:
    """Its key is made; then no instance reports itself any more."""
    return with_key(world, approved(world))


def with_key(world: FakeWorld, rotation: Walk) -> Walk:
    world.rollout.running = None
    run(world, rotation, Step.KEY_VERSION)
    world.rollout.running = ()
    return world.ledger.walk(rotation.id)


def run(world: FakeWorld, rotation: Walk, through: Step | None = None) -> None:
    for _ in runner.run(world.pipeline, rotation.id, world.report, through):
        pass


def confirm(world: FakeWorld, rotation: Walk, officer: str = ADA) -> str:
    text = confirmation_text(world.pipeline, world.ledger.walk(rotation.id))
    add_confirmation(world.pipeline, rotation, FakeSignatures.sign(officer, text))
    return text.decode()


def instance(name: str, *reads: KeyVersion, writes: KeyVersion, silent: bool = False) -> Instance:
    return Instance(name, reads, writes, START - timedelta(hours=2) if silent else START, silent)


def waits(world: FakeWorld, rotation: Walk) -> str:
    return str(runner.pending(Situation(world.pipeline), world.ledger.walk(rotation.id)) or "")


@pytest.mark.parametrize("mode", [RolloutMode.ATTEST, RolloutMode.CONFIRM])
def test_a_lost_key_is_named_and_no_instance_that_could_not_get_it(
    world: FakeWorld, rotation: Walk, mode: RolloutMode
) -> None:
    world.rollout.mode, lost = mode, "the key store holds no v2; put it back with `keyrotation restore-key v2`"
    assert "instance" in waits(world, rotation)
    del world.keys.live[V2]
    assert waits(world, rotation) == lost
    with pytest.raises(KeyRotationError) as refused:
        run(world, rotation)
    assert str(refused.value) == lost


# --- before the new key ---------------------------------------------------------------------------------------------

IS_SILENT = instance("web-1", V1, writes=V1, silent=True)
UNNAMED = replace(instance("web-2", V1, writes=V1), names_primary=False)
REFUSED = pytest.mark.parametrize(
    ("running", "sentence"),
    [
        pytest.param((), "^no application instance reports itself; ", id="none reports"),
        pytest.param(
            (instance("web-1", V1, writes=V1), UNNAMED),
            r"^web-2 \(writes v1, and does not report that as a named primary\): not seen to name its primary; set "
            r"ENCRYPTION_PRIMARY_VERSION=v1 \(a plain key in AWS: `.*--convert`\) and restart it",
            id="one names no primary",
        ),
        pytest.param((Instance("web-3", (V1,), None, START),), r"^web-3 \(not known", id="one reports none at all"),
        pytest.param((IS_SILENT,), r"^web-1 \(last report .*\): silent, and not known to have", id="all are silent"),
        pytest.param(
            (instance("web-1", V1, writes=V1), replace(UNNAMED, silent=True)), "^web-2 .*: silent", id="a silent one"
        ),
    ],
)


def made_no_key(world: FakeWorld, rotation: Walk) -> bool:
    walk = world.ledger.walk(rotation.id)
    made = EventKind.KEY_CREATION_INTENDED in world.ledger.event_names()
    return not made and walk.status is RequestStatus.REQUESTED and world.keys.versions() == (V1,)


@REFUSED
@pytest.mark.parametrize("incident", [None, "INC-1"], ids=["routine", "emergency"])
def test_no_key_is_made_before_every_application_names_its_primary(
    world: FakeWorld, running: tuple[Instance, ...], sentence: str, incident: str | None
) -> None:
    rotation = approved(world, incident=incident)
    world.rollout.running = running
    with pytest.raises(BlockedError, match=sentence) as refused:
        run(world, rotation)
    assert waits(world, rotation) == str(refused.value)
    with pytest.raises(OutOfOrderError, match="not due"):
        runner.run_step(world.pipeline, rotation.id, Task(Step.KEY_VERSION), world.report)
    assert made_no_key(world, rotation)
    world.rollout.running = None
    run(world, rotation, Step.KEY_VERSION)
    assert V2 in world.keys.versions()


def test_an_officer_confirms_before_the_key_is_made_and_for_this_request_only(world: FakeWorld) -> None:
    rotation = approved(world)
    world.rollout.running = (IS_SILENT,)
    text = confirm(world, rotation)
    assert (
        "Rollout: names\nConfirms: every application instance writes v1 until the program says otherwise, also" in text
    )
    assert 'Gone: "web-1" last heard of' in text
    run(world, rotation, Step.KEY_VERSION)
    world.ledger.set_status(rotation.id, RequestStatus.CANCELLED)
    later = approved(world)
    with pytest.raises(BlockedError, match="web-1"):
        run(world, later)
    assert world.ledger.walk(later.id).started_at is None


def test_no_signature_makes_an_instance_name_its_primary(world: FakeWorld) -> None:
    rotation = approved(world)
    confirm(world, rotation)
    world.rollout.running = (UNNAMED,)
    with pytest.raises(BlockedError, match="web-2"):
        run(world, rotation)
    assert made_no_key(world, rotation)


def test_a_silent_instance_that_named_its_primary_keeps_no_key_from_being_made(world: FakeWorld) -> None:
    rotation = approved(world)
    world.rollout.running = (instance("web-2", V1, writes=V1), IS_SILENT)
    run(world, rotation, Step.KEY_VERSION)
    world.rollout.running = (instance("web-2", V1, V2, writes=V1), IS_SILENT)
    with pytest.raises(BlockedError, match="web-1"):
        run(world, rotation)


@pytest.mark.parametrize("then", [(), (UNNAMED,)], ids=["the last one leaves", "one comes that names none"])
def test_the_instances_are_looked_at_again_just_before_the_key_is_made(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch, then: tuple[Instance, ...]
) -> None:
    rotation = approved(world)
    world.rollout.running = (instance("web-1", V1, writes=V1),)
    begin = takeover.begin

    def meanwhile(pipeline: Pipeline, walk: Walk) -> Walk:
        world.rollout.running = then
        return begin(pipeline, walk)

    monkeypatch.setattr(takeover, "begin", meanwhile)
    with pytest.raises(BlockedError):
        run(world, rotation)
    assert world.keys.versions() == (V1,)
    assert EventKind.KEY_CREATION_INTENDED not in world.ledger.event_names()


@pytest.mark.parametrize("mode", [RolloutMode.KUBERNETES, RolloutMode.CONFIRM, RolloutMode.NONE])
def test_in_the_other_modes_the_key_is_made_without_reports(world: FakeWorld, mode: RolloutMode) -> None:
    world.rollout.mode = mode
    world.rollout.running = (replace(UNNAMED, silent=True),)
    run(world, approved(world), Step.KEY_VERSION)
    assert V2 in world.keys.versions()


def test_a_continuation_whose_key_is_there_waits_for_no_report(world: FakeWorld, rotation: Walk) -> None:
    continued = approved(world, incident="INC-1")
    assert continued.supersedes == rotation.id
    assert waits(world, continued) == ""
    with pytest.raises(BlockedError, match="no application instance reports itself"):
        run(world, continued)


# --- attest ---------------------------------------------------------------------------------------------------------


def test_no_instance_seen_is_not_every_instance(world: FakeWorld, rotation: Walk) -> None:
    with pytest.raises(BlockedError, match="no application instance reports itself"):
        run(world, rotation)
    assert (world.keys.primary(), world.ledger.walk(rotation.id).done(Step.DUAL_KEY_ROLLOUT)) == (V1, None)
    assert "attest()" in waits(world, rotation)
    assert f"`keyrotation confirm {rotation.id}`" in waits(world, rotation)


def test_the_first_instance_that_reports_lets_the_walk_go_on(world: FakeWorld, rotation: Walk) -> None:
    world.rollout.timeout_seconds = 60

    def it_starts() -> None:
        world.rollout.running = None

    world.rollout.meanwhile = it_starts
    run(world, rotation)
    assert world.ledger.walk(rotation.id).status is RequestStatus.FINISHED


def test_a_signature_that_arrives_while_it_is_waited_for_lets_the_walk_go_on(world: FakeWorld, rotation: Walk) -> None:
    world.rollout.timeout_seconds = 60

    def an_officer_confirms() -> None:
        world.signatures.signed_at = world.clock.at
        confirm(world, rotation)

    world.rollout.meanwhile = an_officer_confirms
    run(world, rotation)
    assert world.ledger.walk(rotation.id).status is RequestStatus.FINISHED
    confirmed = [name for name in world.ledger.event_names() if name == EventKind.ROLLOUT_CONFIRMED]
    assert len(confirmed) == 3, "reads, writes and without, each by a signature of its own"


@pytest.mark.parametrize(
    ("silent", "named"),
    [
        pytest.param(instance("old-pod", V1, writes=V1, silent=True), "old-pod", id="it read the old key only"),
        pytest.param(instance("ok-pod", V1, V2, writes=V1, silent=True), "ok-pod", id="it read the new one too"),
    ],
)
def test_an_instance_that_fell_silent_is_unknown_and_not_gone(
    world: FakeWorld, rotation: Walk, silent: Instance, named: str
) -> None:
    world.rollout.running = (instance("web-1", V1, V2, writes=V1), silent)
    with pytest.raises(BlockedError, match=rf"^{named} \(last report 2026-01-05 07:00 UTC\): silent, and not known"):
        run(world, rotation)
    assert world.keys.primary() == V1


def test_an_officer_says_that_a_silent_instance_has_ended(world: FakeWorld, rotation: Walk) -> None:
    alive, silent = instance("web-1", V1, V2, writes=V1), instance("old-pod", V1, writes=V1, silent=True)
    world.rollout.running = (alive, silent)
    with pytest.raises(BlockedError, match="old-pod"):
        run(world, rotation)
    assert 'Gone: "old-pod" last heard of 2026-01-05T07:00:00.000000+00:00\n' in confirm(world, rotation)
    with pytest.raises(BlockedError, match="web-1"):  # which continues with the next rollout, and waits for that one
        run(world, rotation)
    assert world.keys.primary() == V2
    done = world.ledger.walk(rotation.id).done(Step.DUAL_KEY_ROLLOUT)
    assert done is not None
    assert (done.facts["instances"], done.facts["names"]) == (1, ["web-1"]), "not the one that has ended"


def test_what_an_officer_said_has_ended_is_forgotten_and_not_asked_about_again(world: FakeWorld) -> None:
    rotation = approved(world)
    world.rollout.running = (instance("web-1", V1, writes=V1), instance("old-pod", V1, writes=V1, silent=True))
    run(world, rotation, Step.KEY_VERSION)
    confirm(world, rotation)
    with pytest.raises(BlockedError, match=r"^web-1 \(reads v1\): not seen to read v2; reload"):
        run(world, rotation)
    assert [each.name for each in world.rollout.running] == ["web-1"]
    world.rollout.running = None
    run(world, rotation)
    assert world.ledger.walk(rotation.id).status is RequestStatus.FINISHED


def test_what_falls_silent_after_the_signature_is_not_meant_by_it(world: FakeWorld, rotation: Walk) -> None:
    world.rollout.running = (instance("web-1", V1, V2, writes=V1), instance("old-pod", V1, writes=V1, silent=True))
    with pytest.raises(BlockedError):
        run(world, rotation)
    confirm(world, rotation)
    later = replace(instance("old-pod", V1, writes=V1, silent=True), reported_at=START - timedelta(hours=1))
    world.rollout.running = (instance("web-1", V1, V2, writes=V1), later)
    with pytest.raises(BlockedError, match="old-pod"):
        run(world, rotation)
    assert world.keys.primary() == V1


def test_no_signature_makes_an_instance_read_a_key(world: FakeWorld, rotation: Walk) -> None:
    with pytest.raises(BlockedError):
        run(world, rotation)
    confirm(world, rotation)
    world.rollout.running = (instance("web-1", V1, writes=V1),)
    with pytest.raises(BlockedError, match=r"^web-1 \(reads v1\): not seen to read v2; reload or restart"):
        run(world, rotation)
    assert world.keys.primary() == V1


def test_a_wait_ends_when_the_request_is_paused(world: FakeWorld, rotation: Walk) -> None:
    world.rollout.timeout_seconds = 600
    world.rollout.meanwhile = lambda: pause(world.pipeline.ledger, world.ledger.walk(rotation.id))
    with pytest.raises(BlockedError, match=r"was paused; continue with `keyrotation resume"):
        run(world, rotation)
    assert world.clock.at - START < timedelta(seconds=3)
    resume(world.pipeline.ledger, rotation)
    world.rollout.running = None
    run(world, rotation)


def test_a_wait_ends_when_the_request_is_cancelled(world: FakeWorld, rotation: Walk) -> None:
    world.rollout.timeout_seconds = 600
    world.rollout.meanwhile = lambda: world.ledger.set_status(rotation.id, RequestStatus.CANCELLED)
    with pytest.raises(BlockedError, match="was cancelled"):
        run(world, rotation)
    assert world.clock.at - START < timedelta(seconds=3)


# --- the third rollout ----------------------------------------------------------------------------------------------


def test_the_old_key_is_archived_only_when_every_instance_has_let_it_go(world: FakeWorld, rotation: Walk) -> None:
    world.rollout.running = None
    run(world, rotation, Step.RETIRED_KEY)
    world.rollout.running = (instance("web-1", V2, writes=V2), instance("web-2", V1, V2, writes=V2))
    with pytest.raises(BlockedError, match=r"^web-2 \(reads v1, v2\): not seen to be without v1"):
        run(world, rotation)
    assert world.ledger.state.keys[V1].state is KeyState.DEACTIVATED
    world.rollout.running = (instance("web-1", V2, writes=V2), instance("web-2", V2, writes=V2))
    run(world, rotation)
    assert world.ledger.state.keys[V1].state is KeyState.ARCHIVED


def test_a_retirement_looks_at_those_that_write_once_more(world: FakeWorld, rotation: Walk) -> None:
    world.rollout.running = None
    run(world, rotation, Step.ZERO_OLD_ROWS_PROOF)
    world.rollout.running = ()
    with pytest.raises(StaleWriterError, match="no application instance reports itself"):
        run(world, rotation)
    assert V1 in world.keys.versions()
    confirm(world, rotation)
    run(world, rotation, Step.RETIRED_KEY)
    assert world.keys.archived() == (V1,)


# --- confirm --------------------------------------------------------------------------------------------------------


def test_each_of_the_three_rollouts_waits_for_a_confirmation_of_its_own(world: FakeWorld) -> None:
    world.rollout.mode = RolloutMode.CONFIRM
    rotation = approved(world)
    confirmed = []
    for expected in (TargetKind.READS, TargetKind.WRITES, TargetKind.WITHOUT):
        with pytest.raises(BlockedError, match="no officer has confirmed yet that every application instance"):
            run(world, rotation)
        assert "no officer has confirmed yet" in waits(world, rotation)
        confirmed.append(confirm(world, rotation))
        assert f"Rollout: {expected}\n" in confirmed[-1]
    run(world, rotation)
    assert world.ledger.walk(rotation.id).status is RequestStatus.FINISHED
    fingerprints = {version: world.keys.get(version).fingerprint for version in (V1, V2)}
    assert [line for text in confirmed for line in text.splitlines() if line.startswith(("Confirms", "Keys"))] == [
        "Confirms: every application instance reads v2",
        f"Keys: v2 {fingerprints[V2]}",
        "Confirms: every application instance writes v2",
        f"Keys: v2 {fingerprints[V2]}",
        "Confirms: every application instance is without v1",
        f"Keys: v1 {fingerprints[V1]}",
    ]


def approved_again(world: FakeWorld, rotation: Walk) -> Walk:
    """The same request under the rollout mode as it is now, which the signed text names."""
    world.ledger.set_status(rotation.id, RequestStatus.CANCELLED)
    return approved(world)


def test_nothing_is_due_while_only_a_signature_can_help(world: FakeWorld, rotation: Walk) -> None:
    world.rollout.mode = RolloutMode.CONFIRM
    rotation = approved_again(world, rotation)
    with pytest.raises(BlockedError):
        run(world, rotation)
    assert runner.next_decision(Situation(world.pipeline), world.ledger.walk(rotation.id)).tasks == ()


@pytest.fixture
def unconfirmed(world: FakeWorld, rotation: Walk) -> Walk:
    """A rotation that waits for its first confirmation."""
    with pytest.raises(BlockedError):
        run(world, rotation)
    return world.ledger.walk(rotation.id)


@pytest.mark.parametrize("kind", [TargetKind.NAMES, TargetKind.READS])
def test_a_confirmation_in_the_words_of_an_earlier_version_still_counts(world: FakeWorld, kind: TargetKind) -> None:
    walk, world.rollout.running = approved(world), ()
    if kind is TargetKind.READS:
        walk = with_key(world, walk)
    target = target_at(world.pipeline, walk)
    assert target.kind is kind
    before = {"Confirms": f"every application instance {target.first_statement}"}
    text = with_lines(confirmation_text(world.pipeline, walk), before, FIRST_CONFIRMATION)
    waited = waits(world, walk)
    world.ledger.append(RolloutConfirmed(kind, (), ADA, FakeSignatures.sign(ADA, text).hex(), text.decode()), walk.id)
    assert waited
    assert waits(world, walk) == ""


def test_a_confirmation_of_one_rollout_is_none_of_the_next(world: FakeWorld, unconfirmed: Walk) -> None:
    reads = FakeSignatures.sign(ADA, confirmation_text(world.pipeline, unconfirmed))
    add_confirmation(world.pipeline, unconfirmed, reads)
    with pytest.raises(BlockedError, match="no application instance reports itself"):
        run(world, unconfirmed)
    with pytest.raises(ApprovalError, match="not over this text"):
        add_confirmation(world.pipeline, unconfirmed, reads)


def rolls_out(world: FakeWorld, rotation: Walk) -> None:
    with pytest.raises(BlockedError, match=r"so it was delivered again; .*confirm that again"):
        run(world, rotation)


def rolls_out_and_dies(world: FakeWorld, rotation: Walk) -> None:
    world.keys.loses_answer = True
    with pytest.raises(KeyStoreUnavailableError):
        run(world, rotation)


def init_is_run(world: FakeWorld, rotation: Walk) -> None:
    import_keys(world.pipeline, world.keys.contents().ring())


def the_roster_is_pinned_in_the_store(world: FakeWorld, rotation: Walk) -> None:
    world.keys.roster = None
    claim_store(world.pipeline, world.keys.contents(), tried=True)


def a_lost_key_is_put_back(world: FakeWorld, rotation: Walk) -> None:
    version = world.keys.contents().ring().primary
    material, world.keys.undelivered = world.keys.live.pop(version), None  # without it nothing says what the list is
    restore_key(world.pipeline, version, material, "a backup")


@pytest.mark.parametrize(
    "delivers",
    [
        rolls_out,
        rolls_out_and_dies,
        init_is_run,
        the_roster_is_pinned_in_the_store,
        a_lost_key_is_put_back,
    ],
)
def test_what_was_confirmed_of_a_changed_list_of_keys_never_counts(
    world: FakeWorld, delivers: Callable[[FakeWorld, Walk], None]
) -> None:
    tables = tuple(replace(table, format=FERNET) for table in world.pipeline.tables)
    object.__setattr__(world.pipeline, "tables", tables)
    world.rollout.mode = RolloutMode.CONFIRM
    rotation = approved(world)
    for sentence in ("reads v2", "writes v2", "is without v1"):
        with pytest.raises(BlockedError, match=f"no officer has confirmed yet .* {sentence}"):
            run(world, rotation)
        world.keys.undelivered = "it is not the list of the live keys"
        confirm(world, rotation)
        delivers(world, rotation)
        assert world.keys.undelivered is None
        for _ in range(2):
            with pytest.raises(BlockedError, match=f"no officer has confirmed yet .* {sentence}"):
                run(world, rotation)
        confirm(world, rotation)
    run(world, rotation)
    assert world.ledger.walk(rotation.id).status is RequestStatus.FINISHED


def test_that_a_changed_list_is_written_again_is_recorded_before_a_wrong_key_is_replaced(
    world: FakeWorld, rotation: Walk
) -> None:
    world.ledger.refuses = False  # it is no request to replace a key
    world.keys.undelivered = "it is not the list of the live keys"
    replace_key._replace(world.pipeline, world.keys.contents(), rotation, KeyMaterial.generate())
    entries = world.journal.entries
    assert f"event {EventKind.KEY_LIST_DELIVERY_INTENDED}" in entries[: entries.index("keys.replace v1")]


def dies(*_: object) -> None:
    raise ProcessKilled


def test_what_was_confirmed_of_a_changed_list_does_not_count_once_a_compromised_key_is_published(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = tuple(replace(table, format=FERNET) for table in world.pipeline.tables)
    object.__setattr__(world.pipeline, "tables", tables)
    world.rollout.mode = RolloutMode.CONFIRM
    emergency = approved(world, incident="INC-1")
    with pytest.raises(BlockedError, match="reads v2"):
        run(world, emergency)
    confirm(world, emergency)
    with monkeypatch.context() as patch:
        patch.setattr(deploy, "publish_compromised", dies)
        with pytest.raises(ProcessKilled):
            run(world, emergency)
    world.ledger.locks.clear()
    assert (world.keys.primary(), world.keys.compromised) == (V2, frozenset())
    world.keys.undelivered = "it is not the list of the live keys"
    confirm(world, emergency)
    for _ in range(2):
        with pytest.raises(BlockedError, match=r"no officer has confirmed yet .* writes v2"):
            run(world, emergency)
    assert world.keys.compromised == {V1}
    assert world.keys.contents().undelivered is None
    confirm(world, emergency)
    run(world, emergency, Step.PRIMARY_KEY_ROLLOUT)


def stranger(world: FakeWorld, walk: Walk, text: bytes) -> bytes:
    return FakeSignatures.sign(CAROL, text)


def of_another_text(world: FakeWorld, walk: Walk, text: bytes) -> bytes:
    return FakeSignatures.sign(ADA, with_lines(text, {"Rollout": "writes"}))


def an_approval(world: FakeWorld, walk: Walk, text: bytes) -> bytes:
    return FakeSignatures.sign(ADA, world.ledger.approval_text(walk.id))


def too_early(world: FakeWorld, walk: Walk, text: bytes) -> bytes:
    world.signatures.signed_at = START - timedelta(seconds=1)
    return FakeSignatures.sign(ADA, text)


def from_the_future(world: FakeWorld, walk: Walk, text: bytes) -> bytes:
    world.signatures.signed_at = world.clock.at + timedelta(hours=1)
    return FakeSignatures.sign(ADA, text)


@pytest.mark.parametrize("forge", [stranger, of_another_text, an_approval, too_early, from_the_future])
def test_a_confirmation_that_is_none_is_refused(
    world: FakeWorld, unconfirmed: Walk, forge: Callable[[FakeWorld, Walk, bytes], bytes]
) -> None:
    signature = forge(world, unconfirmed, confirmation_text(world.pipeline, unconfirmed))
    with pytest.raises(ApprovalError):
        add_confirmation(world.pipeline, unconfirmed, signature)
    assert EventKind.ROLLOUT_CONFIRMED not in world.ledger.event_names()


def test_a_confirmation_that_somebody_wrote_into_the_audit_counts_for_nothing(
    world: FakeWorld, unconfirmed: Walk
) -> None:
    forged = RolloutConfirmed(TargetKind.READS, (), ADA, b"signed by nobody".hex(), "keyrotation-confirmation-v1\n")
    world.ledger.refuses = False
    world.ledger.append(forged, unconfirmed.id)
    with pytest.raises(AuditError, match=r"\(rollout_confirmed\) has a text that nobody can have signed"):
        run(world, unconfirmed)


def test_a_silent_instance_that_somebody_added_to_a_confirmation_is_not_gone(
    world: FakeWorld, unconfirmed: Walk
) -> None:
    text = confirmation_text(world.pipeline, unconfirmed)
    silent = instance("old-pod", V1, writes=V1, silent=True)

    forged = RolloutConfirmed(
        TargetKind.READS, Gone.of([silent]), ADA, FakeSignatures.sign(ADA, text).hex(), text.decode()
    )
    world.ledger.append(forged, unconfirmed.id)
    world.rollout.running = (instance("web-1", V1, V2, writes=V1), silent)
    with pytest.raises(BlockedError, match="old-pod"):
        run(world, unconfirmed)


def test_a_signature_is_verified_again_when_it_is_used(world: FakeWorld, unconfirmed: Walk) -> None:
    confirm(world, unconfirmed)
    target = target_at(world.pipeline, unconfirmed)
    assert pending(Situation(world.pipeline), unconfirmed, target) is None
    roster = world.signatures.configured
    world.ledger.state.roster = world.signatures.configured = replace(roster, officers=roster.officers[1:])
    assert pending(Situation(world.pipeline), unconfirmed, target) is not None, "by an officer who has left"


def test_one_officer_is_enough_for_a_confirmation(world: FakeWorld, unconfirmed: Walk) -> None:
    assert pinned_roster(world.pipeline).required == 2
    confirm(world, unconfirmed, BEN)
    run(world, unconfirmed, Step.DUAL_KEY_ROLLOUT)


@pytest.mark.parametrize(
    "when",
    [
        pytest.param("requested", id="before the first rollout"),
        pytest.param("finished", id="after the last"),
    ],
)
def test_there_is_nothing_to_confirm_where_no_rollout_is(world: FakeWorld, when: str) -> None:
    world.rollout.mode = RolloutMode.CONFIRM if when == "requested" else RolloutMode.ATTEST
    rotation = approved(world)
    if when == "finished":
        world.rollout.running = None
        run(world, rotation)
    with pytest.raises(RequestError, match="nothing to confirm"):
        confirmation_text(world.pipeline, world.ledger.walk(rotation.id))


# --- none -----------------------------------------------------------------------------------------------------------


def test_with_none_nobody_is_waited_for_and_the_signed_text_says_so(world: FakeWorld, rotation: Walk) -> None:
    world.rollout.mode = RolloutMode.NONE
    rotation = approved_again(world, rotation)
    assert b"\nRollout: none: nobody is asked whether applications read v" in world.ledger.approval_text(rotation.id)
    world.rollout.running = (instance("old-pod", V1, writes=V1, silent=True),)
    run(world, rotation)
    assert world.ledger.walk(rotation.id).status is RequestStatus.FINISHED


def test_with_none_an_instance_that_says_that_it_lags_is_still_waited_for(world: FakeWorld, rotation: Walk) -> None:
    world.rollout.mode = RolloutMode.NONE
    rotation = approved_again(world, rotation)
    world.rollout.running = (instance("web-1", V1, writes=V1),)
    with pytest.raises(BlockedError, match="web-1"):
        run(world, rotation)


@pytest.mark.parametrize("mode", [RolloutMode.NONE, RolloutMode.CONFIRM])
def test_a_mode_that_was_changed_after_the_signatures_is_refused(
    world: FakeWorld, rotation: Walk, mode: RolloutMode
) -> None:
    with pytest.raises(BlockedError):
        run(world, rotation)
    confirm(world, rotation)
    world.rollout.mode = mode
    with pytest.raises(ApprovalError, match=r"no longer what its text for signing says \(Rollout\)"):
        run(world, rotation)


# --- kubernetes -----------------------------------------------------------------------------------------------------


def test_an_instance_of_which_nobody_knows_is_at_no_goal_and_is_waited_for(world: FakeWorld, rotation: Walk) -> None:
    world.rollout.mode = RolloutMode.KUBERNETES
    unknown = Instance("by-hand", (), None, START)
    world.rollout.running = (instance("web-1", V1, V2, writes=V1), unknown)
    for kind in TargetKind:
        assert not RolloutTarget(kind, (V2,)).met_by(unknown)
    target, instances = RolloutTarget(TargetKind.READS, (V2,)), world.rollout.running
    reason = pending_rollout(target, RolloutMode.KUBERNETES, instances, Confirmation(("Ada",)), rotation.id)
    assert reason is not None
    assert (reason.code, reason.why) == (
        PendingCode.INSTANCES,
        "by-hand (not known what it reads): not seen to read v2",
    )


def test_no_pod_seen_is_not_every_pod() -> None:
    target = RolloutTarget(TargetKind.READS, (V2,))
    reason = pending_rollout(target, RolloutMode.KUBERNETES, (), Confirmation(), "1")
    assert reason is not None
    assert reason.code is PendingCode.NO_INSTANCES
    assert pending_rollout(target, RolloutMode.KUBERNETES, (), Confirmation(("Ada",)), "1") is None


def test_the_signed_text_names_every_workload(world: FakeWorld) -> None:
    world.rollout.mode, world.rollout.workloads = RolloutMode.KUBERNETES, ("Deployment/api", "DaemonSet/agent")
    request = approved(world)
    text = world.ledger.approval_text(request.id).decode()
    assert "\nRollout: kubernetes: Deployment/api, DaemonSet/agent get a new Pod template for each rollout" in text
    world.rollout.workloads = ("Deployment/api",)
    with pytest.raises(ApprovalError, match=r"is no longer what its text for signing says \(Rollout\)"):
        run(world, request)


def test_a_rollout_records_how_many_instances_proved_which_keys_they_hold() -> None:
    pod = instance("api-7", V1, V2, writes=V1)
    proving = replace(instance("api-7/1-aa", V1, V2, writes=V1), nonce="1")
    lacking = replace(instance("web-1", V1, writes=V1), nonce="1", unproven=(V2,))
    assert seen_facts((proving, pod, lacking)) == {
        "instances": 3, "names": ["api-7", "api-7/1-aa", "web-1"], "proven": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("nonce", "is_lagging"),
    [
        pytest.param("a", True, id="reported before the key store changed"),
        pytest.param("b", False, id="reported since"),
        pytest.param(None, False, id="does not report itself"),
    ],
)
def test_a_report_that_is_older_than_the_change_of_the_key_store_does_not_count(
    nonce: str | None, is_lagging: bool
) -> None:
    instance = Instance("web-1", (V1,), V1, START, nonce=nonce)
    target = RolloutTarget(TargetKind.WRITES, (V1,))
    reason = pending_rollout(target, RolloutMode.ATTEST, (instance,), Confirmation(), "1", {"b"})
    assert (reason is not None) is is_lagging
    assert reason is None or "no report since the primary was changed" in reason.why


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(9, id="the clock of the database is ahead"),
        pytest.param(-600, id="the clock of the database is far behind"),
    ],
)
def test_whether_a_report_is_newer_than_a_change_of_the_key_store_is_no_matter_of_clocks(seconds: int) -> None:
    world = before_any_rotation()
    world.rollout.running, world.rollout.clock = None, FakeClock(START + timedelta(seconds=seconds))
    world.rollout.ttl_seconds = 10**9
    instance_loads_and_reports(world)
    rotation = approved(world)
    run(world, rotation, Step.KEY_VERSION)
    instance_loads_and_reports(world)
    with pytest.raises(BlockedError, match="not seen to write v2"):
        run(world, rotation)
    undoing = open_rollback(world.pipeline, rotation, reason="slow", requested_by="dba@clinic")
    sign(world, undoing, ADA)
    sign(world, undoing, BEN)
    # Its last report says that it writes v1, but it has read since that v2 is the primary.
    world.rollout.report("web-1", newest_nonce(world))
    world.rollout.load("web-1")
    with pytest.raises(BlockedError, match=r"web-1 \(no report since the primary was changed\): not seen to write v1"):
        run(world, undoing)
    instance_loads_and_reports(world)
    run(world, undoing, Step.PRIMARY_KEY_ROLLOUT)


def instance_loads_and_reports(world: FakeWorld) -> None:
    world.rollout.load("web-1")
    world.rollout.report("web-1", newest_nonce(world))
