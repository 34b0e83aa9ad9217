"""The key ring: every key an application may read with, and the one that it writes with."""

from collections.abc import Mapping

from keyrotation_pipeline.errors import InvalidKeyError, UnknownKeyVersionError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial


class KeyRing:
    """Immutable key versions with a named primary.

    Args:
        keys: at least one.
        primary: the version that `encrypt` uses; named, never inferred from the numbers.

    Raises:
        InvalidKeyError: the primary is not among the keys.
    """

    def __init__(self, keys: Mapping[KeyVersion, KeyMaterial], primary: KeyVersion) -> None:
        if primary not in keys:
            raise InvalidKeyError(f"the primary {primary} is not in the key ring; store its key, or name another primary")
        self._keys = dict(keys)
        self.primary = primary

    @property
    def versions(self) -> tuple[KeyVersion, ...]:
        """The versions that this ring reads, in order."""
        return tuple(sorted(self._keys))

    def material(self, version: KeyVersion) -> KeyMaterial:
        """The key of one version.

        Raises:
            UnknownKeyVersionError: the ring does not hold it.
        """
        try:
            return self._keys[version]
        except KeyError:
            raise UnknownKeyVersionError(str(version)) from None

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(map(str, self.versions))}; primary {self.primary})"
