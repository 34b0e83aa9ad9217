"""Decides which changes a key store accepts: the same rules for every store.

Each function returns whether there is anything to do, or refuses. The order matters: first what is never allowed, then
whether the store is already as requested, and only then whether it was changed since the decision.
"""

from keyrotation_pipeline.errors import KeyStoreConflictError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import StoredKeys, StoreOwner


def needs_adding(stored: StoredKeys, version: KeyVersion, material: KeyMaterial, revision: str) -> bool:
    """Returns whether the key must be stored.

    Raises:
        KeyStoreError: a different key is there.
    """
    if version in stored:
        if stored.material(version) != material:
            raise different(version)
        return False
    return _unless_changed(stored, revision)


def needs_replacing(stored: StoredKeys, version: KeyVersion, material: KeyMaterial, revision: str) -> bool:
    """Returns whether a live key must be replaced.

    Raises:
        KeyStoreError: the version is not live.
    """
    if version not in stored.live:
        raise KeyStoreError(
            f"{version} is not live in the key store, so no key of it can be replaced; name another version"
        )
    return stored.material(version) != material and _unless_changed(stored, revision)


def needs_promoting(stored: StoredKeys, version: KeyVersion, revision: str) -> bool:
    """Returns whether the primary must be named.

    Raises:
        KeyStoreError: the version is not live, or compromised; or it is plaintext, and a key is the primary.
    """
    if version in stored.compromised:
        raise KeyStoreError(f"{version} is compromised and never becomes the primary again; name another version")
    if version == PLAINTEXT and stored.primary not in {None, PLAINTEXT}:
        raise KeyStoreError(f"{stored.primary} is the primary, and nothing leads back to plaintext; leave it")
    if version not in stored.live and version != PLAINTEXT:
        raise KeyStoreError(f"{version} is not live in the key store and cannot be the primary; add its key first")
    return stored.primary != version and _unless_changed(stored, revision)


def needs_archiving(stored: StoredKeys, version: KeyVersion, revision: str) -> bool:
    """Returns whether the key must be withdrawn from the applications.

    Raises:
        KeyStoreError: it is the primary, or not in the store.
    """
    if version == stored.primary:
        raise KeyStoreError(f"{version} is the primary and cannot be archived; name another primary first")
    stored.material(version)
    return version in stored.live and _unless_changed(stored, revision)


def needs_restoring(stored: StoredKeys, version: KeyVersion, revision: str) -> bool:
    """Returns whether the key must be given to the applications again.

    Raises:
        KeyStoreError: it is not in the store.
    """
    stored.material(version)
    return version in stored.archived and _unless_changed(stored, revision)


def needs_destroying(stored: StoredKeys, version: KeyVersion, revision: str) -> bool:
    """Returns whether the key must be removed from the archive.

    Raises:
        KeyStoreError: it is live.
    """
    if version in stored.live or version == stored.primary:
        raise KeyStoreError(f"{version} is live in the key store and is not destroyed; archive it first")
    return version in stored.archived and _unless_changed(stored, revision)


def needs_publishing(stored: StoredKeys, versions: frozenset[KeyVersion], revision: str) -> bool:
    """Returns whether versions must be published as compromised.

    Raises:
        KeyStoreError: one of them is the primary.
    """
    if stored.primary in versions:
        raise KeyStoreError(f"{stored.primary} is the primary, so applications write under it; promote another first")
    return not versions <= stored.compromised and _unless_changed(stored, revision)


def needs_naming(stored: StoredKeys, owner: StoreOwner, revision: str) -> bool:
    """Returns whether the owner must be stored."""
    return stored.owner != owner and _unless_changed(stored, revision)


def needs_resealing(stored: StoredKeys, revision: str) -> bool:
    """Returns whether a key is not under the configured wrapping key.

    Raises:
        KeyStoreDamagedError: one of these is damaged, so that nothing can seal it.
    """
    for version in stored.unsealed:
        stored.material(version)
    return bool(stored.unsealed) and _unless_changed(stored, revision)


def needs_canary(stored: StoredKeys, canary: KeyMaterial, revision: str) -> bool:
    """Returns whether the canary must be stored."""
    return stored.canary != canary and _unless_changed(stored, revision)


def different(version: KeyVersion) -> KeyStoreError:
    """Returns the refusal to overwrite a key."""
    return KeyStoreError(
        f"the key store holds a different key under {version}; versions are never reused, so give this key another one"
    )


def conflict() -> KeyStoreConflictError:
    """Returns the refusal of a change that was decided from an older state."""
    return KeyStoreConflictError(
        "somebody changed the key store in the meantime, so nothing was changed in it; run the same again"
    )


def _unless_changed(stored: StoredKeys, revision: str) -> bool:
    if stored.revision != revision:
        raise conflict()
    return True
