"""Whose the key store is: what another home, or another copy of this one, has changed is not changed from here.

The store names the newest event of the audit of whoever changed it last (`StoreOwner.head`). That is one more anchor:
it must lie in this audit, or officers must have signed that it is given up (`reconcile`). An audit of another home
never holds it; that of a copy of this home, such as a clone of its database, holds what both have in common.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from keyrotation_pipeline.errors import KeyStoreConflictError, NotOurKeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.wrapping_keys import WrappingKeyState
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.keys import StoredKeys, StoreOwner
from keyrotation_pipeline.model.visible_text import visible
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.ports.ledger import Ledger

UNCLAIMED = (
    "the key store does not say whose keys it holds; run `keyrotation init` (`--convert` for one plain key in "
    "AWS), which tries and claims them"
)


def of_others(stored: StoredKeys, state: AuditState) -> StoreOwner | None:
    """Returns the owner of a store that somebody else changed last; None: it is ours, or says nothing.

    It is ours if this audit has the event that it names, or officers have signed that this is given up.
    """
    owner = stored.owner
    return owner if owner is not None and state.missing([owner.head]) else None


def places_of(owner: StoreOwner) -> str:
    """Returns the databases of a store's owner, for people and for texts to sign."""
    return visible(" and ".join(owner.places)).replace(";", ",")


def finding(owner: StoreOwner, state: AuditState) -> str:
    """Returns whose a store is that is not ours, as a phrase."""
    if owner.home != state.home:
        return f"the key store belongs to another home ({visible(owner.home[:16])}, {places_of(owner)})"
    return (
        f"another copy of this home changed the key store, unless this database was restored (event {owner.head.seq} "
        f"{owner.head.hash[:16]} is not in this audit)"
    )


def refusal(owner: StoreOwner, state: AuditState) -> str:
    """Returns the same as a sentence that says what to do."""
    if owner.home == state.home:
        return f"{finding(owner, state)}; run `keyrotation reconcile`"
    return (
        f"{finding(owner, state)}; give this home its own store, or have the takeover signed: `keyrotation reconcile`"
    )


def require_not_of_others(stored: StoredKeys, state: AuditState) -> None:
    """Refuses a store of somebody else; one that does not say whose it is may still be claimed.

    Raises:
        NotOurKeyStoreError: it is one.
    """
    if (owner := of_others(stored, state)) is not None:
        raise NotOurKeyStoreError(refusal(owner, state))


def require_ours(stored: StoredKeys, state: AuditState) -> None:
    """Refuses to change a store of somebody else.

    Raises:
        NotOurKeyStoreError: it is one, or holds keys and does not say whose.
    """
    is_claimed = stored.owner is not None or stored.unversioned  # which the store itself lets nobody change
    if not is_claimed and stored.versions and state.home is not None:
        raise NotOurKeyStoreError(UNCLAIMED)
    require_not_of_others(stored, state)


class OwnedKeyStore:
    """`ports.OwnedKeys`: a store that only the home of this ledger changes."""

    def __init__(self, store: KeyStore, ledger: Ledger, *, recovery_key_named: bool = True) -> None:
        self._store, self._ledger = store, ledger
        self._recovery_key_named = recovery_key_named
        self._stamps = True

    @property
    def description(self) -> str:
        """See `KeyStore.description`."""
        return self._store.description

    @property
    def residual_copies(self) -> str | None:
        """See `KeyStore.residual_copies`."""
        return self._store.residual_copies

    def place_of(self, version: KeyVersion) -> str:
        """See `KeyStore.place_of`."""
        return self._store.place_of(version)

    def preflight(self) -> tuple[Problem, ...]:
        """See `KeyStore.preflight`."""
        return self._store.preflight()

    def read(self) -> StoredKeys:
        """See `KeyStore.read`."""
        return replace(self._store.read(), recovery_key_named=self._recovery_key_named)

    def made(self, version: KeyVersion) -> KeyMaterial | None:
        """See `KeyStore.made`."""
        return self._store.made(version)

    def add(self, version: KeyVersion, material: KeyMaterial, revision: str, *, archived: bool = False) -> StoredKeys:
        """See `KeyStore.add`."""
        return self._store.add(version, material, self._stamped(revision, (version, material)), archived=archived)

    def replace(self, version: KeyVersion, material: KeyMaterial, revision: str) -> StoredKeys:
        """See `KeyStore.replace`."""
        return self._store.replace(version, material, self._stamped(revision))

    def set_primary(self, version: KeyVersion, revision: str, description: str = "") -> StoredKeys:
        """See `KeyStore.set_primary`."""
        return self._store.set_primary(version, self._stamped(revision), description)

    def archive(self, version: KeyVersion, revision: str, description: str = "") -> StoredKeys:
        """See `KeyStore.archive`."""
        return self._store.archive(version, self._stamped(revision), description)

    def restore(self, version: KeyVersion, revision: str) -> StoredKeys:
        """See `KeyStore.restore`."""
        return self._store.restore(version, self._stamped(revision))

    def destroy(self, version: KeyVersion, revision: str) -> StoredKeys:
        """See `KeyStore.destroy`."""
        return self._store.destroy(version, self._stamped(revision))

    def publish_compromised(self, versions: frozenset[KeyVersion], revision: str) -> StoredKeys:
        """See `KeyStore.publish_compromised`."""
        return self._store.publish_compromised(versions, self._stamped(revision))

    @property
    def sealed_by(self) -> str:
        """See `KeyStore.sealed_by`."""
        return self._store.sealed_by

    def wrapping_key(self) -> WrappingKeyState | None:
        """See `KeyStore.wrapping_key`."""
        return self._store.wrapping_key()

    def offer_canary(self, canary: KeyMaterial, revision: str) -> StoredKeys:
        """See `KeyStore.offer_canary`."""
        return self._store.offer_canary(canary, self._stamped(revision))

    def reseal(self, revision: str) -> StoredKeys:
        """See `KeyStore.reseal`."""
        return self._store.reseal(self._stamped(revision))

    def name_owner(self, owner: StoreOwner, revision: str) -> StoredKeys:
        """See `KeyStore.name_owner`; whoever calls has found out that this home may."""
        return self._store.name_owner(owner, revision)

    def stamp(self, revision: str) -> StoredKeys:
        """See `OwnedKeys.stamp`."""
        stored = self._store.read()
        if stored.revision != revision:
            raise KeyStoreConflictError(
                "somebody changed the key store in the meantime, so nothing was changed in it; run the same again"
            )
        return self._named(stored)

    @contextmanager
    def unstamped(self) -> Iterator[None]:
        """See `OwnedKeys.unstamped`."""
        before, self._stamps = self._stamps, False
        try:
            yield
        finally:
            self._stamps = before

    def _stamped(self, revision: str, added: tuple[KeyVersion, KeyMaterial] | None = None) -> str:
        """Returns the revision from which a change is made, such as one that adds this key."""
        if not self._stamps:
            return revision
        stored = self._store.read()
        if stored.revision != revision:
            return revision  # the change is refused, or there is nothing left to change
        if added is not None and stored.pending.get(added[0]) == added[1]:
            # An interrupted write is completed: an event was named before it, and another write would drop its key.
            require_ours(stored, self._ledger.replayed())
            return revision
        return self._named(stored).revision

    def _named(self, stored: StoredKeys) -> StoredKeys:
        state, head = self._ledger.replayed(), self._ledger.head()
        require_ours(stored, state)
        if stored.owner is None or state.home is None or stored.owner.head == head:
            return stored
        return self._store.name_owner(replace(stored.owner, home=state.home, head=head), stored.revision)
