"""Archiving a retired key, with the ports in memory: it is kept, readable, backed up, and recorded as what it is."""

from collections.abc import Callable

import pytest

from keyrotation_pipeline.audit.divergence import divergence
from keyrotation_pipeline.errors import BackupError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.key_events import KeyImportIntended, RetirementIntended
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.rotation.archive import confirm_key_withdrawn
from keyrotation_pipeline_tests.fakes import START, V1, V2, V3, FakeWorld, ProcessKilled, fake_pipeline, rotation_of


@pytest.fixture
def world() -> FakeWorld:
    """v1 has left the applications."""
    made = fake_pipeline()
    rotation_of(made)
    made.keys.archive(V1)
    return made


def archive(world: FakeWorld) -> list[dict[str, str]]:
    return list(confirm_key_withdrawn(world.pipeline, rotation_of(world), world.report)["archived"])


def state_of(world: FakeWorld, version: KeyVersion) -> KeyState:
    return world.ledger.state.keys[version].state


def test_a_kept_key_is_recorded_as_archived_and_named_by_fingerprint_and_backup(world: FakeWorld) -> None:
    assert archive(world) == [
        {"version": "v1", "fingerprint": world.keys.get(V1).fingerprint[:16], "backup": "v1.key.pgp"}
    ]
    assert state_of(world, V1) is KeyState.ARCHIVED
    assert state_of(world, V2) is KeyState.ACTIVE


def test_a_compromised_key_stays_compromised(world: FakeWorld) -> None:
    world.ledger.refuses = False
    world.ledger.set_key_state(V1, KeyState.COMPROMISED, None)
    assert [each["version"] for each in archive(world)] == ["v1"]
    assert state_of(world, V1) is KeyState.COMPROMISED


def test_every_version_that_retirement_took_is_archived(world: FakeWorld) -> None:
    world.keys.shelf[V3] = KeyMaterial.generate()
    world.ledger.state.keys[V3] = KeyRecord(V3, KeyState.DEACTIVATED, world.keys.shelf[V3].fingerprint, START)
    world.ledger.refuses = False
    assert [each["version"] for each in archive(world)] == ["v1", "v3"]
    assert state_of(world, V3) is KeyState.ARCHIVED


def test_a_key_without_backup_gets_one(world: FakeWorld) -> None:
    world.vault.backups.clear()
    archive(world)
    assert world.vault.key_backup(V1, world.keys.get(V1).fingerprint) is not None


def live_again(world: FakeWorld) -> None:
    world.keys.restore(V1)


def lost(world: FakeWorld) -> None:
    world.keys.shelf.clear()


def another_key(world: FakeWorld) -> None:
    world.keys.shelf[V1] = KeyMaterial.generate()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(live_again, "v1 is live in the key store again", id="live again"),
        pytest.param(lost, "the key store holds no v1; put it back with `keyrotation restore-key v1`", id="lost"),
        pytest.param(another_key, "the key store holds another v1", id="another key"),
    ],
)
def test_a_key_that_is_not_safely_kept_is_not_called_archived(
    world: FakeWorld, spoil: Callable[[FakeWorld], None], sentence: str
) -> None:
    spoil(world)
    with pytest.raises(KeyStoreError, match=sentence):
        archive(world)
    assert state_of(world, V1) is KeyState.DEACTIVATED


def test_dying_at_any_change_and_archiving_again_ends_the_same() -> None:
    for die_at in range(4):
        world = fake_pipeline()
        world.keys.archive(V1)
        world.vault.backups.clear()
        world.journal.die_at = len(world.journal.entries) + die_at
        with pytest.raises(ProcessKilled):
            archive(world)
        assert state_of(world, V1) is KeyState.DEACTIVATED

        world.journal.die_at = None
        archive(world)
        archive(world)

        assert state_of(world, V1) is KeyState.ARCHIVED
        reported = [each for each in world.ledger.event_names() if each in {"key_backed_up", "key_state_changed"}]
        assert reported in (["key_state_changed"], ["key_backed_up", "key_state_changed"])


def test_a_backup_that_fails_names_no_event_that_the_audit_will_not_have(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation = rotation_of(world)
    world.ledger.append(RetirementIntended((V1, V3), V2), rotation.id)
    world.keys.shelf[V3] = KeyMaterial.generate()
    world.ledger.refuses = False
    world.ledger.state.keys[V3] = KeyRecord(V3, KeyState.DEACTIVATED, world.keys.shelf[V3].fingerprint, START)
    world.ledger.append(KeyImportIntended(V3, world.keys.shelf[V3].fingerprint))

    def stored_nearby_alone(_version: KeyVersion, _material: KeyMaterial, anchor: AuditHead) -> None:
        world.anchors.written.append(anchor)  # by the manifest in the local directory
        raise BackupError("s3://bucket/ does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(world.vault, "store_key", stored_nearby_alone)
        with pytest.raises(BackupError):
            archive(world)
    world.ledger.block(rotation.id, "s3://bucket/ does not answer")
    assert not divergence(world.pipeline, world.keys.read())
    assert [each["version"] for each in archive(world)] == ["v1", "v3"]
