"""Making and importing keys: the order of what happens, every crash point, and what is refused."""

from dataclasses import replace
from datetime import timedelta

import pytest

from keyrotation_pipeline.errors import BackupError, KeyStoreDamagedError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import AuditHead, EventKind
from keyrotation_pipeline.model.key_events import KeyCreationIntended
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.rotation.keys import create_key_version, declare_activation, import_keys
from keyrotation_pipeline_tests.fakes import (
    ROSTER,
    START,
    V1,
    V2,
    V3,
    FakeWorld,
    ProcessKilled,
    fake_pipeline,
    rotation_of,
)
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

KEY_STORED = "keys.add v3"


@pytest.fixture
def world() -> FakeWorld:
    """v2 is the primary; a rotation to v3 has begun."""
    return fake_pipeline()


@pytest.fixture
def rotation(world: FakeWorld) -> Walk:
    return replace(rotation_of(world, V2, V3), promotion_xid=None)


@pytest.fixture
def empty() -> FakeWorld:
    """Nothing stored, nothing registered."""
    world = fake_pipeline()
    world.keys.live.clear()
    world.keys.primary_version = None
    world.vault.backups.clear()
    world.ledger.begin_with(ROSTER)
    return world


def states(world: FakeWorld) -> dict[str, str]:
    return {str(record.version): str(record.state) for record in world.ledger.state.keys.values()}


def fingerprints(world: FakeWorld) -> dict[str, str]:
    return {str(record.version): record.fingerprint for record in world.ledger.state.keys.values()}


# --- a new key ------------------------------------------------------------------------------------------------------


def test_a_key_is_announced_stored_backed_up_and_registered_in_this_order(world: FakeWorld, rotation: Walk) -> None:
    create_key_version(world.pipeline, rotation, world.report)
    assert world.journal.entries == [
        "event key_creation_intended",
        "keys.name_owner",
        "keys.add v3",
        "vault.store_key v3",
        "event key_backed_up",
        "event key_registered",
    ]


def test_a_new_key_is_live_but_not_the_primary(world: FakeWorld, rotation: Walk) -> None:
    made = create_key_version(world.pipeline, rotation, world.report)
    assert states(world)["v3"] == KeyState.PRE_ACTIVATION
    assert world.keys.primary() == V2
    assert made.fingerprint == world.keys.get(V3).fingerprint == fingerprints(world)["v3"]
    assert made.backup == world.vault.backups[V3].name


def test_the_intent_holds_the_fingerprint_and_no_event_the_key(world: FakeWorld, rotation: Walk) -> None:
    create_key_version(world.pipeline, rotation, world.report)
    material = world.keys.get(V3)
    assert world.ledger.facts_of("key_creation_intended") == {"version": "v3", "fingerprint": material.fingerprint}
    audit = "".join(event.body for event in world.ledger.events())
    assert base64_of(material) not in audit
    assert raw_of(material).hex() not in audit


def test_two_rotations_make_two_keys() -> None:
    made = set()
    for _ in range(2):
        world = fake_pipeline()
        create_key_version(world.pipeline, rotation_of(world, V2, V3), world.report)
        made.add(world.keys.get(V3))
    assert len(made) == 2


@pytest.mark.parametrize("changes", range(7))
def test_a_key_is_made_once_wherever_the_process_dies(world: FakeWorld, rotation: Walk, changes: int) -> None:
    world.journal.die_at = changes
    died = False
    try:
        create_key_version(world.pipeline, rotation, world.report)
    except ProcessKilled:
        died = True
    stored_before = world.keys.live.get(V3)
    world.journal.die_at = None
    made = create_key_version(world.pipeline, rotation, world.report)
    assert died == (changes < 6)
    assert stored_before in {None, world.keys.get(V3)}
    assert world.journal.entries.count(KEY_STORED) == 1
    assert made.fingerprint == world.keys.get(V3).fingerprint == fingerprints(world)["v3"]
    assert world.vault.backups[V3].fingerprint == made.fingerprint


def test_again_is_no_change(world: FakeWorld, rotation: Walk) -> None:
    facts = create_key_version(world.pipeline, rotation, world.report)
    entries = list(world.journal.entries)
    assert create_key_version(world.pipeline, rotation, world.report) == facts
    assert world.journal.entries == entries


def test_a_lost_backup_is_made_again(world: FakeWorld, rotation: Walk) -> None:
    create_key_version(world.pipeline, rotation, world.report)
    del world.vault.backups[V3]
    create_key_version(world.pipeline, rotation, world.report)
    assert world.vault.backups[V3].fingerprint == fingerprints(world)["v3"]


def test_a_key_that_nobody_announced_is_refused(world: FakeWorld, rotation: Walk) -> None:
    world.keys.live[V3] = KeyMaterial.generate()
    with pytest.raises(KeyStoreError, match=r"holds a v3 .* that was not made here"):
        create_key_version(world.pipeline, rotation, world.report)
    assert "v3" not in states(world)
    assert V3 not in world.vault.backups


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "of nobody"])
def test_a_key_that_a_dead_attempt_had_sent_is_completed_if_it_was_announced(
    world: FakeWorld, rotation: Walk, announced: bool
) -> None:
    sent = KeyMaterial.generate()
    world.keys.sent = {V3: sent}
    if announced:
        world.ledger.append(KeyCreationIntended(V3, sent.fingerprint), rotation.id)
    made = create_key_version(world.pipeline, rotation, world.report)
    assert (made.fingerprint == sent.fingerprint) is announced
    assert world.keys.live[V3].fingerprint == made.fingerprint == fingerprints(world)["v3"]


def test_a_key_that_was_exchanged_after_it_was_announced_is_refused(world: FakeWorld, rotation: Walk) -> None:
    world.journal.die_at = 2
    with pytest.raises(ProcessKilled):
        create_key_version(world.pipeline, rotation, world.report)
    world.journal.die_at = None
    world.keys.live[V3] = KeyMaterial.generate()
    with pytest.raises(KeyStoreError, match="was not made here"):
        create_key_version(world.pipeline, rotation, world.report)


def test_a_registered_key_that_was_exchanged_is_refused(world: FakeWorld, rotation: Walk) -> None:
    create_key_version(world.pipeline, rotation, world.report)
    world.keys.live[V3] = KeyMaterial.generate()
    with pytest.raises(KeyStoreDamagedError, match=r"holds another v3 .* than the registered one"):
        create_key_version(world.pipeline, rotation, world.report)


def test_a_registered_key_that_the_store_lost_is_never_replaced_by_a_new_one(world: FakeWorld, rotation: Walk) -> None:
    create_key_version(world.pipeline, rotation, world.report)
    del world.keys.live[V3]
    with pytest.raises(KeyStoreError, match="holds no v3; put it back with `keyrotation restore-key v3`"):
        create_key_version(world.pipeline, rotation, world.report)
    assert V3 not in world.keys.live


def test_a_version_in_the_archive_is_never_used_again(world: FakeWorld, rotation: Walk) -> None:
    world.keys.shelf[V3] = KeyMaterial.generate()
    with pytest.raises(KeyStoreError, match="holds v3 in its archive"):
        create_key_version(world.pipeline, rotation, world.report)


@pytest.mark.parametrize("state", [each for each in KeyState if each is not KeyState.PRE_ACTIVATION])
def test_a_version_that_is_past_its_beginning_is_never_made_again(
    world: FakeWorld, rotation: Walk, state: KeyState
) -> None:
    create_key_version(world.pipeline, rotation, world.report)
    world.ledger.state.keys[V3] = replace(world.ledger.state.keys[V3], state=state)
    with pytest.raises(KeyStoreError, match=f"v3 is {state} already"):
        create_key_version(world.pipeline, rotation, world.report)


@pytest.mark.parametrize("where", ["live", "archived", "registered"])
def test_a_random_key_that_was_there_before_is_refused(
    world: FakeWorld, rotation: Walk, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    known = KeyMaterial(raw_of(world.keys.get(V1)))
    if where == "archived":
        world.keys.archive(V1)
    if where == "registered":
        del world.keys.live[V1]
    monkeypatch.setattr(KeyMaterial, "generate", lambda: known)
    with pytest.raises(KeyStoreError, match="same random key twice"):
        create_key_version(world.pipeline, rotation, world.report)
    assert V3 not in world.keys.live
    assert "key_creation_intended" not in world.ledger.event_names()


def test_a_store_that_reads_back_another_key_stops_before_the_backup(
    world: FakeWorld, rotation: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = world.keys.add
    monkeypatch.setattr(
        world.keys, "add", lambda version, _, revision, **_named: real(version, KeyMaterial.generate(), revision)
    )
    with pytest.raises(KeyStoreError, match="v3 does not read back"):
        create_key_version(world.pipeline, rotation, world.report)
    assert V3 not in world.vault.backups
    assert "v3" not in states(world)


def test_a_vault_that_keeps_nothing_stops_before_the_registration(
    world: FakeWorld, rotation: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.vault, "key_backup", lambda _version, _fingerprint: None)
    with pytest.raises(BackupError, match="no intact backup of v3"):
        create_key_version(world.pipeline, rotation, world.report)
    assert "v3" not in states(world)


def test_the_backup_anchors_the_audit_with_the_intent_in_it(
    world: FakeWorld, rotation: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    anchors: list[AuditHead] = []
    real = world.vault.store_key

    def store_key(version: object, material: object, anchor: AuditHead) -> object:
        anchors.append(anchor)
        return real(version, material, anchor)  # type: ignore[arg-type]

    monkeypatch.setattr(world.vault, "store_key", store_key)
    create_key_version(world.pipeline, rotation, world.report)
    (intent,) = world.ledger.events(EventKind.KEY_CREATION_INTENDED)
    assert anchors == [AuditHead(intent.seq, intent.hash)]


# --- existing keys --------------------------------------------------------------------------------------------------


@pytest.fixture
def ring() -> KeyRing:
    """What the application has in its environment: v1, v2, and v2 is the primary."""
    return KeyRing({V1: KeyMaterial.generate(), V2: KeyMaterial.generate()}, V2)


def test_existing_keys_are_stored_backed_up_and_registered(empty: FakeWorld, ring: KeyRing) -> None:
    import_keys(empty.pipeline, ring)
    assert states(empty) == {"v1": "deactivated", "v2": "active"}
    assert empty.keys.read().ring().primary == V2
    for version in ring.versions:
        assert empty.keys.get(version) == ring.material(version)
        assert empty.vault.backups[version].fingerprint == ring.material(version).fingerprint


def test_an_import_again_is_no_change(empty: FakeWorld, ring: KeyRing) -> None:
    import_keys(empty.pipeline, ring)
    entries = list(empty.journal.entries)
    import_keys(empty.pipeline, ring)
    assert empty.journal.entries == entries


@pytest.mark.parametrize("changes", range(12))
def test_an_import_ends_the_same_wherever_the_process_dies(empty: FakeWorld, ring: KeyRing, changes: int) -> None:
    empty.journal.die_at = changes
    try:
        import_keys(empty.pipeline, ring)
    except ProcessKilled:
        empty.journal.die_at = None
        import_keys(empty.pipeline, ring)
    assert states(empty) == {"v1": "deactivated", "v2": "active"}
    assert empty.keys.primary() == V2
    assert sorted(empty.vault.backups) == [V1, V2]
    assert fingerprints(empty) == {str(each): ring.material(each).fingerprint for each in ring.versions}


def test_a_key_store_that_has_the_keys_already_is_taken_as_it_is(empty: FakeWorld, ring: KeyRing) -> None:
    empty.keys.live.update({version: ring.material(version) for version in ring.versions})
    empty.keys.primary_version = V2
    import_keys(empty.pipeline, empty.keys.read().ring())
    assert states(empty) == {"v1": "deactivated", "v2": "active"}
    assert sorted(empty.vault.backups) == [V1, V2]


def test_a_different_key_never_takes_the_place_of_a_registered_one(empty: FakeWorld, ring: KeyRing) -> None:
    import_keys(empty.pipeline, ring)
    before = dict(empty.keys.live)
    other = KeyRing({V1: KeyMaterial.generate(), V2: ring.material(V2)}, V2)
    with pytest.raises(KeyStoreError, match="the key given for v1 is not the one registered as"):
        import_keys(empty.pipeline, other)
    assert empty.keys.live == before


def test_a_different_key_never_takes_the_place_of_a_stored_one(empty: FakeWorld, ring: KeyRing) -> None:
    stored = KeyMaterial.generate()
    empty.keys.live[V1] = stored
    with pytest.raises(KeyStoreError, match="holds a different key under v1"):
        import_keys(empty.pipeline, ring)
    assert empty.keys.live[V1] == stored
    assert states(empty) == {}


def test_another_primary_than_the_one_in_the_store_is_refused(empty: FakeWorld, ring: KeyRing) -> None:
    import_keys(empty.pipeline, ring)
    newer = KeyRing({V2: ring.material(V2), V3: KeyMaterial.generate()}, V3)
    with pytest.raises(KeyStoreError, match="the key store's primary is v2, but v3 is given"):
        import_keys(empty.pipeline, newer)
    assert V3 not in empty.keys.live


def test_an_old_environment_does_not_turn_a_rotation_back(empty: FakeWorld, ring: KeyRing) -> None:
    import_keys(empty.pipeline, ring)
    import_keys(empty.pipeline, KeyRing({V1: ring.material(V1)}, V1))
    assert empty.keys.primary() == V2
    assert states(empty) == {"v1": "deactivated", "v2": "active"}


def test_an_older_key_that_turns_up_later_is_imported_for_reading(empty: FakeWorld, ring: KeyRing) -> None:
    import_keys(empty.pipeline, KeyRing({V2: ring.material(V2)}, V2))
    import_keys(empty.pipeline, ring)
    assert states(empty) == {"v1": "deactivated", "v2": "active"}


def test_a_store_that_lost_its_primary_is_not_given_one_by_guess(empty: FakeWorld, ring: KeyRing) -> None:
    import_keys(empty.pipeline, ring)
    empty.keys.primary_version = None
    with pytest.raises(KeyStoreError, match="names no primary, though keys are registered"):
        import_keys(empty.pipeline, KeyRing({V1: ring.material(V1)}, V1))


def test_since_when_an_imported_key_is_in_use_is_written_down_once() -> None:
    world = before_any_rotation()
    for _ in range(2):
        declare_activation(world.pipeline, START - timedelta(days=400))
    assert world.ledger.event_names().count("key_activation_declared") == 1
    assert overview(world.pipeline).next_rotation_due == START - timedelta(days=35)
    with pytest.raises(KeyStoreError, match="is in the future"):
        declare_activation(world.pipeline, START + timedelta(days=1))
