"""Which keys are there, and which one do writes use?"""

from typing import Protocol

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial


class KeyStore(Protocol):
    """Where keys live: what applications get (`ring`), and the archive that they do not get."""

    @property
    def description(self) -> str:
        """The store in one plain line, as approvals name it; no secret in it."""

    def ring(self) -> KeyRing:
        """Every live key and the primary, read afresh."""

    def versions(self) -> tuple[KeyVersion, ...]:
        """Live versions, in order."""

    def archived(self) -> tuple[KeyVersion, ...]:
        """Archived versions, in order."""

    def primary(self) -> KeyVersion | None:
        """The version that writes use."""

    def get(self, version: KeyVersion) -> KeyMaterial:
        """A live or archived key, read afresh.

        Raises:
            KeyStoreError: there is none, or what is there is not a key.
        """

    def add(self, version: KeyVersion, material: KeyMaterial) -> None:
        """Store a live key. The same key again is no change.

        Raises:
            KeyStoreError: a different key is stored under this version, live or archived.
        """

    def set_primary(self, version: KeyVersion) -> None:
        """Name the version that writes use; it must be live."""

    def archive(self, version: KeyVersion) -> None:
        """Take a key from the applications and keep it in the archive; again is no change; never the primary."""

    def restore(self, version: KeyVersion) -> None:
        """Give an archived key to the applications again; again is no change."""

    def destroy(self, version: KeyVersion) -> None:
        """Remove a key from the archive for good; one that is not in the store is no change.

        Raises:
            KeyStoreError: the version is live or the primary; the key is then still there.
        """
