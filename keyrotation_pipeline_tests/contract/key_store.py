"""What every key store promises. A store's own tests inherit the suite and say how to open it."""

from collections.abc import Callable

import pytest

from keyrotation_pipeline.errors import KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.ports.keys import KeyStore

V1, V2, V3, V10 = (KeyVersion(number) for number in (1, 2, 3, 10))


class KeyStoreContract:
    """Inherit it as `Test…` and override the fixture `open_store`."""

    @pytest.fixture
    def open_store(self) -> Callable[[], KeyStore]:
        """Opens the same, at first empty, store anew at each call."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, open_store: Callable[[], KeyStore]) -> KeyStore:
        """A store that holds v1 and v2, and writes under v2."""
        store = open_store()
        store.add(V1, self.key(1))
        store.add(V2, self.key(2))
        store.set_primary(V2)
        return store

    @staticmethod
    def key(number: int) -> KeyMaterial:
        return KeyMaterial(bytes([number]) * 32)

    def test_a_new_store_is_empty(self, open_store: Callable[[], KeyStore]) -> None:
        store = open_store()
        assert (store.versions(), store.archived(), store.primary()) == ((), (), None)

    def test_a_ring_without_a_primary_is_an_error(self, open_store: Callable[[], KeyStore]) -> None:
        store = open_store()
        store.add(V1, self.key(1))
        with pytest.raises(KeyStoreError, match="primary"):
            store.ring()

    def test_what_is_stored_is_read_by_whoever_opens_the_store(
        self, store: KeyStore, open_store: Callable[[], KeyStore]
    ) -> None:
        ring = open_store().ring()
        assert (ring.versions, ring.primary) == (store.versions(), store.primary()) == ((V1, V2), V2)
        assert (ring.material(V1), ring.material(V2)) == (self.key(1), self.key(2))
        assert open_store().get(V1) == self.key(1)

    def test_every_read_is_fresh(self, store: KeyStore, open_store: Callable[[], KeyStore]) -> None:
        store.ring()
        other = open_store()
        other.add(V3, self.key(3))
        other.set_primary(V3)
        assert (store.versions(), store.primary(), store.ring().primary) == ((V1, V2, V3), V3, V3)
        assert store.get(V3) == self.key(3)

    def test_versions_are_in_order_of_their_numbers(self, store: KeyStore) -> None:
        store.add(V10, self.key(10))
        store.add(V3, self.key(3))
        assert store.versions() == (V1, V2, V3, V10)

    def test_the_same_key_again_is_no_change(self, store: KeyStore) -> None:
        store.add(V1, self.key(1))
        assert store.versions() == (V1, V2)

    def test_a_different_key_under_a_live_version_is_refused(self, store: KeyStore) -> None:
        with pytest.raises(KeyStoreError, match="different"):
            store.add(V1, self.key(9))
        assert store.get(V1) == self.key(1)

    def test_a_different_key_under_an_archived_version_is_refused(self, store: KeyStore) -> None:
        store.archive(V1)
        with pytest.raises(KeyStoreError, match="different"):
            store.add(V1, self.key(9))
        assert (store.versions(), store.get(V1)) == ((V2,), self.key(1))

    def test_adding_an_archived_key_does_not_bring_it_back(self, store: KeyStore) -> None:
        store.archive(V1)
        store.add(V1, self.key(1))
        assert (store.versions(), store.archived()) == ((V2,), (V1,))

    @pytest.mark.parametrize("version", [V1, V3], ids=["archived", "unknown"])
    def test_only_a_live_version_becomes_primary(self, store: KeyStore, version: KeyVersion) -> None:
        store.archive(V1)
        with pytest.raises(KeyStoreError, match=str(version)):
            store.set_primary(version)
        assert store.primary() == V2

    def test_the_primary_may_go_back(self, store: KeyStore) -> None:
        store.set_primary(V1)
        store.set_primary(V1)
        assert store.ring().primary == V1

    def test_an_archived_key_leaves_the_ring_and_is_kept(
        self, store: KeyStore, open_store: Callable[[], KeyStore]
    ) -> None:
        store.archive(V1)
        store.archive(V1)
        assert (store.versions(), store.archived(), store.ring().versions) == ((V2,), (V1,), (V2,))
        assert open_store().get(V1) == self.key(1)

    def test_the_primary_is_never_archived(self, store: KeyStore) -> None:
        with pytest.raises(KeyStoreError, match="primary"):
            store.archive(V2)
        assert store.ring().versions == (V1, V2)

    def test_a_restored_key_is_in_the_ring_again(self, store: KeyStore) -> None:
        store.archive(V1)
        store.restore(V1)
        store.restore(V1)
        assert (store.ring().versions, store.archived()) == ((V1, V2), ())
        assert store.get(V1) == self.key(1)

    def test_a_destroyed_key_is_gone_for_whoever_opens_the_store(
        self, store: KeyStore, open_store: Callable[[], KeyStore]
    ) -> None:
        store.archive(V1)
        store.destroy(V1)
        store.destroy(V1)
        assert (store.ring().versions, open_store().archived()) == ((V2,), ())
        with pytest.raises(KeyStoreError, match="v1"):
            open_store().get(V1)

    @pytest.mark.parametrize("version", [V1, V2], ids=["live", "primary"])
    def test_a_live_key_is_never_destroyed(self, store: KeyStore, version: KeyVersion) -> None:
        with pytest.raises(KeyStoreError, match=f"{version} is live"):
            store.destroy(version)
        assert store.ring().versions == (V1, V2)

    def test_destroying_what_was_never_stored_is_no_change(self, store: KeyStore) -> None:
        store.destroy(V3)
        assert (store.versions(), store.archived()) == ((V1, V2), ())

    @pytest.mark.parametrize("ask", ["get", "archive", "restore"])
    def test_a_version_that_was_never_stored_is_an_error(self, store: KeyStore, ask: str) -> None:
        with pytest.raises(KeyStoreError, match="v3"):
            getattr(store, ask)(V3)

    def test_the_description_is_one_line_the_same_each_time_without_a_key(
        self, store: KeyStore, open_store: Callable[[], KeyStore]
    ) -> None:
        assert store.description == open_store().description
        assert store.description.isprintable()
        assert self.key(1).to_base64() not in store.description
