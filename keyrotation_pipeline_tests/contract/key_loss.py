"""Keys lost from a store and put back: every key store's tests inherit this, over a clinic of really encrypted rows."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest

from keyrotation_pipeline.audit.store_owner import OwnedKeyStore
from keyrotation_pipeline.backups.key_loss import restore_key
from keyrotation_pipeline.errors import FingerprintMismatchError, KeyStoreError, UndecryptableError
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import KeyState, StoredKeys
from keyrotation_pipeline.ports.keys import KeyStore, OwnedKeys
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline_tests.contract.key_store import add, archive, set_primary, shape
from keyrotation_pipeline_tests.fakes import V1, V2, V3, FakeWorld, fake_pipeline

KEYS = {version: KeyMaterial(bytes([version.number]) * 32) for version in (V1, V2)}


def value(version: int, text: str) -> str:
    ring = KeyRing(KEYS, {1: V1, 2: V2}[version])
    return encrypt(ring, text)


class Noted:
    """A key store, and which versions were live after each of its changes."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self.live: list[tuple[KeyVersion, ...]] = []

    def __getattr__(self, name: str) -> object:
        found = getattr(self._store, name)
        if name not in {"add", "archive"}:
            return found

        def changed(*arguments: object, **named: object) -> StoredKeys:
            stored: StoredKeys = found(*arguments, **named)
            self.live.append(tuple(stored.live))
            return stored

        return changed


class KeyLossContract:
    """Inherit it as `Test…` and override the fixture `open_store`."""

    @pytest.fixture
    def open_store(self) -> Callable[[], KeyStore]:
        """Opens the same, at first empty, store again at each call: one that has lost every key."""
        raise NotImplementedError

    @pytest.fixture
    def world(self) -> FakeWorld:
        """v1 deactivated, v2 active, rows under both."""
        rows = [{"first_name": value(1, "Ada"), "email": value(2, "ada@example.org")}, {"first_name": value(1, "Ben")}]
        world = fake_pipeline({"clients": [dict(row) for row in rows]})
        for version, material in KEYS.items():
            record = world.ledger.state.keys[version]
            world.ledger.state.keys[version] = replace(record, fingerprint=material.fingerprint)
        world.ledger.refuses = False  # its audit has other fingerprints
        return world

    @pytest.fixture
    def pipeline(self, world: FakeWorld, open_store: Callable[[], KeyStore]) -> Pipeline:
        return replace(world.pipeline, keys=OwnedKeyStore(open_store(), world.ledger))

    def test_a_lost_key_is_live_again_after_its_values_were_read_with_it(self, pipeline: Pipeline) -> None:
        restored = restore_key(pipeline, V1, KEYS[V1], "backup")
        assert (restored.place, restored.decrypted) == ("live", 2)
        assert tuple(pipeline.keys.read().live) == (V1,)
        assert pipeline.keys.read().material(V1) == KEYS[V1]

    def test_several_lost_at_once_come_back_with_the_primary(self, pipeline: Pipeline) -> None:
        for version in (V1, V2):
            restore_key(pipeline, version, KEYS[version], "backup")
        ring = pipeline.keys.read().ring()
        assert (ring.versions, ring.primary) == ((V1, V2), V2)

    def test_an_archived_key_comes_back_to_the_archive(self, world: FakeWorld, pipeline: Pipeline) -> None:
        world.ledger.set_key_state(V1, KeyState.ARCHIVED, None)
        assert restore_key(pipeline, V1, KEYS[V1], "backup").place == "archive"
        assert shape(pipeline.keys.read())[:2] == ((), (V1,))
        assert pipeline.keys.read().material(V1) == KEYS[V1]

    def test_an_archived_key_is_at_no_moment_live(self, world: FakeWorld, pipeline: Pipeline) -> None:
        world.ledger.set_key_state(V1, KeyState.ARCHIVED, None)
        seen = Noted(pipeline.keys)
        restore_key(replace(pipeline, keys=cast("OwnedKeys", seen)), V1, KEYS[V1], "backup")
        assert seen.live
        assert all(V1 not in live for live in seen.live)

    def test_a_compromised_key_is_live_only_while_rows_need_it(self, world: FakeWorld, pipeline: Pipeline) -> None:
        world.ledger.set_key_state(V1, KeyState.COMPROMISED, None)
        assert restore_key(pipeline, V1, KEYS[V1], "backup").place == "live"
        add(pipeline.keys, V2, KEYS[V2])
        set_primary(pipeline.keys, V2)
        world.database.rows["clients"] = []
        assert restore_key(pipeline, V1, KEYS[V1], "backup").place == "archive"
        assert V1 not in pipeline.keys.read().live

    def test_a_key_that_is_in_the_archive_was_not_lost_and_is_said_to_stay_there(self, pipeline: Pipeline) -> None:
        # Deactivated after a reconciliation, until a rotation has seen that no instance has it.
        for version in (V1, V2):
            restore_key(pipeline, version, KEYS[version], "backup")
        archive(pipeline.keys, V1)
        assert restore_key(pipeline, V1, KEYS[V1], "backup").place == "archive"
        assert shape(pipeline.keys.read())[:2] == ((V2,), (V1,))

    def test_a_store_that_was_lost_names_the_pinned_roster_again(self, pipeline: Pipeline) -> None:
        assert pipeline.keys.read().roster is None
        restore_key(pipeline, V2, KEYS[V2], "backup")
        assert pipeline.keys.read().roster == pinned_roster(pipeline).digest

    def test_again_is_no_change(self, pipeline: Pipeline) -> None:
        for _ in range(2):
            restore_key(pipeline, V2, KEYS[V2], "backup")
        assert shape(pipeline.keys.read()) == ((V2,), (), V2)

    @pytest.mark.parametrize("archived", [False, True], ids=["live", "archived"])
    def test_a_different_key_is_never_overwritten(self, pipeline: Pipeline, archived: bool) -> None:
        other = KeyMaterial.generate()
        with pipeline.keys.unstamped():
            add(pipeline.keys, V1, other)
            if archived:
                archive(pipeline.keys, V1)
        with pytest.raises(KeyStoreError, match=r"holds a different key .* as v1, which is never overwritten"):
            restore_key(pipeline, V1, KEYS[V1], "backup")
        assert pipeline.keys.read().material(V1) == other

    def test_the_backup_of_another_key_is_refused(self, pipeline: Pipeline) -> None:
        with pytest.raises(FingerprintMismatchError, match="but v1 is registered as"):
            restore_key(pipeline, V1, KeyMaterial.generate(), "backup")
        assert not pipeline.keys.read().live

    def test_a_key_that_does_not_read_the_rows_is_refused(self, world: FakeWorld, pipeline: Pipeline) -> None:
        record = world.ledger.state.keys[V1]
        other = KeyMaterial.generate()
        world.database.sealed_under[V1] = record.fingerprint
        world.ledger.state.keys[V1] = replace(record, fingerprint=other.fingerprint)
        with pytest.raises(
            UndecryptableError,
            match=r"a value of clients\.first_name under v1 cannot be decrypted",
        ):
            restore_key(pipeline, V1, other, "backup")
        assert not pipeline.keys.read().live

    def test_an_unregistered_and_a_destroyed_version_stay_away(self, world: FakeWorld, pipeline: Pipeline) -> None:
        with pytest.raises(FingerprintMismatchError, match="v3 is not registered"):
            restore_key(pipeline, V3, KeyMaterial.generate(), "backup")
        world.ledger.set_key_state(V1, KeyState.ARCHIVED, None)
        world.ledger.set_key_state(V1, KeyState.DESTROYED, None)
        with pytest.raises(KeyStoreError, match="v1 is destroyed permanently"):
            restore_key(pipeline, V1, KEYS[V1], "backup")

    def test_intent_and_outcome_are_in_the_audit_without_the_key(self, world: FakeWorld, pipeline: Pipeline) -> None:
        restore_key(pipeline, V1, KEYS[V1], "backup")
        reported = ["key_restore_intended", "key_restored", "roster_digest_to_key_store_intended"]
        assert world.ledger.event_names()[-3:] == reported
        assert base64_of(KEYS[V1]) not in "".join(event.body for event in world.ledger.events())
