"""The key ring: every key an application may read with, and the one that it writes with."""

from collections.abc import Collection, Mapping
from typing import Self

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.errors import InvalidKeyError, UnknownKeyVersionError
from keyrotation_pipeline.fieldcrypto.environment import compromised_in, is_primary_named, keys_in, primary_in
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial


class KeyRing:
    """Immutable key versions with a named primary; safe to share between threads.

    Args:
        keys: at least one.
        primary: the version that `encrypt` uses; named, never inferred from the numbers.
        compromised: versions that are read, and never again encrypted under.

    Raises:
        InvalidKeyError: the primary is not among the keys, or is compromised.
    """

    __slots__ = ("_ciphers", "_keys", "_names_primary", "_primary")

    def __init__(
        self,
        keys: Mapping[KeyVersion, KeyMaterial],
        primary: KeyVersion,
        compromised: Collection[KeyVersion] = (),
    ) -> None:
        if primary not in keys:
            raise InvalidKeyError(
                f"the primary {primary} is not in the key ring; store its key, or name another primary"
            )
        if primary in compromised:
            raise InvalidKeyError(
                f"{primary} is compromised, so nothing is encrypted under it again; name as the primary the version "
                "that replaced it, as `keyrotation status` shows it"
            )
        self._keys = dict(keys)
        self._ciphers = {version: AESGCM(raw_of(material)) for version, material in keys.items()}
        self._primary = primary
        self._names_primary = True

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """The ring of ``ENCRYPTION_MASTER_KEY``, ``ENCRYPTION_MASTER_KEY_V2`` … and ``ENCRYPTION_PRIMARY_VERSION``.

        ``ENCRYPTION_COMPROMISED_VERSIONS``, where it is set, names versions that are not encrypted under again.

        Args:
            environment: variables by name, such as a copy of the process environment; empty ones count as unset.

        Raises:
            InvalidKeyError: a variable is missing, misnamed or holds no key; names it, never what it holds.
        """
        keys = keys_in(environment)
        ring = cls(keys, primary_in(environment, keys), compromised_in(environment))
        ring._names_primary = is_primary_named(environment)
        return ring

    @property
    def primary(self) -> KeyVersion:
        """The version that writes use."""
        return self._primary

    @property
    def names_primary(self) -> bool:
        """Whether the primary was named; false: it is the only key, and a second one needs a primary named with it."""
        return self._names_primary

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

    def cipher(self, version: KeyVersion) -> AESGCM:
        """The cipher of one version: the same object each time, made once, usable by several threads at once.

        Raises:
            UnknownKeyVersionError: the ring does not hold it.
        """
        try:
            return self._ciphers[version]
        except KeyError:
            raise UnknownKeyVersionError(str(version)) from None

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(map(str, self.versions))}; primary {self.primary})"
