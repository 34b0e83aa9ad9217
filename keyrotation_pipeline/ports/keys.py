"""Which keys are there, and which one do writes use?"""

from contextlib import AbstractContextManager
from typing import Protocol

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.wrapping_keys import WrappingKeyState
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.keys import StoredKeys, StoreOwner


class KeyStore(Protocol):
    """Stores keys: the live ones, which applications get, and the archived ones, which they do not get.

    Each change names the revision that it was decided from. If the store was changed since, the change is refused and
    nothing is done. If the store is already as requested, nothing changes, whatever the revision. A process may die
    during a change: a key is then still in at least one place, and repeating the change completes it. Each change
    returns the store as it reads afterwards.

    A store can be pickled: the pickle says how to open it and holds no key.

    Every method raises:
        KeyStoreUnavailableError: the store does not answer or does not let us in; try again later.
        KeyStoreDamagedError: the store is lost, or holds something else than it should; stop.
    Every change also raises:
        KeyStoreConflictError: the store was changed since the revision.
        KeyStoreError: the change is never allowed; says why.
    """

    @property
    def description(self) -> str:
        """The store in one plain line, as approvals name it; no secret in it."""

    @property
    def residual_copies(self) -> str | None:
        """What of a destroyed key can still be read, and how that ends, as officers sign it; None: nothing is known."""

    def place_of(self, version: KeyVersion) -> str:
        """Returns where the live key of a version is, or will be stored, as somebody would look for it."""

    def preflight(self) -> tuple[Problem, ...]:
        """Lists what would stop a change later. To find out, it may make what every store has that archives keys."""

    def read(self) -> StoredKeys:
        """Reads the whole store as it is at one moment, without a cache."""

    def made(self, version: KeyVersion) -> KeyMaterial | None:
        """Makes the key of a version, to be added, where only the store can; repeating it makes no other.

        Returns:
            None: whoever calls makes it.

        Raises:
            KeyStoreError: it cannot make this version.
        """

    def add(self, version: KeyVersion, material: KeyMaterial, revision: str, *, archived: bool = False) -> StoredKeys:
        """Stores a live key. An archived one stays archived: only `restore` brings it back.

        Args:
            archived: store it in the archive alone, where no application ever reads it; a live one stays live.

        Raises:
            KeyStoreError: a different key is stored under this version, live or archived.
        """

    def replace(self, version: KeyVersion, material: KeyMaterial, revision: str) -> StoredKeys:
        """Replaces a live key by another; the old one is then nowhere in the store.

        For a key that was imported by mistake and decrypts nothing: `rotation.replace_key` asks for evidence of that
        first.

        Raises:
            KeyStoreError: the version is not live.
        """

    def set_primary(self, version: KeyVersion, revision: str, description: str = "") -> StoredKeys:
        """Names the version that writes use; it must be live, and not published as compromised.

        Args:
            description: one plain line for people who look at the store, where it has room for one. Nothing depends on
                it: a store that does not accept it is no failure.
        """

    def archive(self, version: KeyVersion, revision: str, description: str = "") -> StoredKeys:
        """Withdraws a key from the applications and stores it in the archive; never the primary.

        Args:
            description: as in `set_primary`, for the archived key.
        """

    def restore(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Gives an archived key to the applications again."""

    def destroy(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Removes a key from the archive for good; a key that is not in the store is no change.

        Raises:
            KeyStoreError: the version is live or the primary; the key is then still there.
        """

    def publish_compromised(self, versions: frozenset[KeyVersion], revision: str) -> StoredKeys:
        """Publishes to applications never to encrypt under these versions again, in addition to those published before.

        Raises:
            KeyStoreError: one of them is the primary: applications would stop.
        """

    @property
    def sealed_by(self) -> str:
        """Kind and name of the wrapping key that the configuration names; empty: it names none."""

    def wrapping_key(self) -> WrappingKeyState | None:
        """Returns how the wrapping key was found, such as that it is to be deleted; a minute old at most.

        Returns:
            None: there is none.
        """

    def offer_canary(self, canary: KeyMaterial, revision: str) -> StoredKeys:
        """Stores a key that encrypts nothing, sealed, for applications to open."""

    def reseal(self, revision: str) -> StoredKeys:
        """Seals each key that is not under the configured wrapping key; it stays live or archived, and the same.

        One after another: a process that dies leaves some under the earlier one, and repeating it completes it.
        """

    def name_owner(self, owner: StoreOwner, revision: str) -> StoredKeys:
        """Stores whose the keys are, replacing what was there; one plain key in AWS has no room for it.

        The owner of the database can rewrite all of it, but not what is stored here.
        """


class OwnedKeys(KeyStore, Protocol):
    """A key store that only its home changes.

    Each change is preceded by `stamp`, and made from the revision that this gives. So whoever has read the store before
    changes nothing, and whoever reads it later sees which home, with which audit, is changing it.

    Every change also raises:
        NotOurKeyStoreError: the store belongs to another home, another copy of this one changed it, or it does not say
            whose it is. Nothing was changed.
    """

    def stamp(self, revision: str) -> StoredKeys:
        """Names the newest event of the audit in the store, not inside a transaction; an empty store stays as it is.

        Raises:
            NotOurKeyStoreError, KeyStoreConflictError: as each change.
        """

    def unstamped(self) -> AbstractContextManager[None]:
        """Inside, changes are plain: after a stamp, as officers signed, or into a store that was lost."""
