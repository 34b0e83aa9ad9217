"""The key ring that an application reads and writes with, and the environment variables that hold its keys."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Self

from keyrotation_pipeline.errors import (
    BrokenSealError,
    InvalidKeyError,
    KeyStoreUnavailableError,
    NothingEncryptedYetError,
    UnknownKeyVersionError,
)
from keyrotation_pipeline.fieldcrypto.grammar import FIRST, MAX_VERSION_NUMBER, PLAINTEXT, SECOND, KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import AesKey, KeyMaterial, Passphrase, SourceKey, TransitKey
from keyrotation_pipeline.fieldcrypto.wrapping_keys import CANARY

if TYPE_CHECKING:
    from typing import Protocol

    class FieldCipher(Protocol):
        """The cipher of one key: `AESGCM`, or `xaes.KcXaes256Gcm` in the second generation."""

        def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
            """Returns what follows the nonce in a stored value."""

        def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
            """Returns the plaintext, or raises `InvalidTag`."""


FIRST_KEY_VARIABLE = "ENCRYPTION_MASTER_KEY"
PRIMARY_VARIABLE = "ENCRYPTION_PRIMARY_VERSION"
COMPROMISED_VARIABLE = "ENCRYPTION_COMPROMISED_VERSIONS"
# A sealed key that encrypts nothing: whoever opens it can open sealed keys.
CANARY_VARIABLE = "ENCRYPTION_CANARY"

# Also matches near misses of such a name, so that a key is never ignored because of a typing error.
_NUMBERED = re.compile(rf"{FIRST_KEY_VARIABLE}_?V?_?0*([0-9]+)(_?{SECOND.marker})?", re.ASCII | re.IGNORECASE)


def variable_of(version: KeyVersion) -> str:
    """Names the variable of a version.

    ``ENCRYPTION_MASTER_KEY`` for v1, ``ENCRYPTION_MASTER_KEY_V2`` for v2, ``ENCRYPTION_MASTER_KEY_V2X`` for v2x.
    """
    return FIRST_KEY_VARIABLE if str(version) == "v1" else f"{FIRST_KEY_VARIABLE}_{str(version).upper()}"


def version_in(name: str) -> KeyVersion | None:
    """Returns the version that a variable holds; None for a variable that is not about keys.

    Raises:
        InvalidKeyError: the variable is misnamed.
    """
    if name == FIRST_KEY_VARIABLE:
        return KeyVersion(1)
    match = _NUMBERED.fullmatch(name)
    if match is None:
        return None
    number = int(match[1])
    if not 1 <= number <= MAX_VERSION_NUMBER:
        raise InvalidKeyError(f"{name} is not a name under which a key is read; versions are 1 to {MAX_VERSION_NUMBER}")
    version = KeyVersion(number, (SECOND if match[2] else FIRST).number)
    if name != variable_of(version):
        raise InvalidKeyError(f"{name} is not a name under which a key is read; call it {variable_of(version)}")
    return version


def keys_in(environment: Mapping[str, str]) -> dict[KeyVersion, KeyMaterial]:
    """Reads every key that is set, which may be none where plaintext is named as the primary.

    Raises:
        InvalidKeyError: none is set, one is not a key, or is sealed and cannot be opened, or a variable is misnamed
            (``…_V1``, ``…_V02``); names it.
    """
    keys = {}
    for name in sorted(environment):
        version = version_in(name) if environment[name].strip() else None
        if version is not None:
            keys[version] = _material(name, version, environment[name])
    if not keys and environment.get(PRIMARY_VARIABLE, "").strip() != str(PLAINTEXT):
        raise InvalidKeyError(f"no key is set; set {FIRST_KEY_VARIABLE} to the base64 of 32 bytes")
    return keys


def primary_in(environment: Mapping[str, str], keys: Mapping[KeyVersion, KeyMaterial]) -> KeyVersion:
    """Returns the version that writes use: the named one, else the only one.

    Raises:
        InvalidKeyError: several keys and none named, or the named one is not a version or has no key.
    """
    name = environment.get(PRIMARY_VARIABLE, "").strip()
    if name:
        return _named_primary(name, keys)
    if len(keys) > 1:
        choices = " or ".join(str(version) for version in sorted(keys))
        raise InvalidKeyError(f"several keys are set and none is the primary; set {PRIMARY_VARIABLE} to {choices}")
    return next(iter(keys))


def is_primary_named(environment: Mapping[str, str]) -> bool:
    """Returns whether the version that writes use is named, rather than being the only key that is set."""
    return bool(environment.get(PRIMARY_VARIABLE, "").strip())


def compromised_in(environment: Mapping[str, str]) -> frozenset[KeyVersion]:
    """Returns the versions that must never be the primary again; their keys may be set, for reading.

    Raises:
        InvalidKeyError: the variable does not hold a list of versions.
    """
    try:
        return versions_in(environment.get(COMPROMISED_VARIABLE, ""))
    except InvalidKeyError:
        raise InvalidKeyError(f"{COMPROMISED_VARIABLE} does not name key versions; write them as v1,v2") from None


def versions_in(text: str) -> frozenset[KeyVersion]:
    """Parses versions from ``v1,v2``; an empty text names none.

    Raises:
        InvalidKeyError: one of them is not a version.
    """
    return frozenset(KeyVersion.parse(each.strip()) for each in text.split(",")) if text.strip() else frozenset()


def versions_as_text(versions: Iterable[KeyVersion]) -> str:
    """Formats versions as ``v1,v2``, in order."""
    return ",".join(map(str, sorted(versions)))


def _named_primary(name: str, keys: Mapping[KeyVersion, KeyMaterial]) -> KeyVersion:
    try:
        primary = KeyVersion.parse(name)
    except InvalidKeyError:
        # Does not print the value: somebody may have put a key there.
        raise InvalidKeyError(f"{PRIMARY_VARIABLE} does not name a key version; write it as v1, v2, …") from None
    if primary not in keys and primary != PLAINTEXT:
        raise InvalidKeyError(
            f"{PRIMARY_VARIABLE} is {primary}, but {variable_of(primary)} is not set; set it, or name another primary"
        )
    return primary


def _material(name: str, version: KeyVersion | str, text: str) -> KeyMaterial:
    # Not above, as in `_cipher`.
    from keyrotation_pipeline.fieldcrypto.seal import open_key  # noqa: PLC0415

    try:
        return open_key(version, text)
    except BrokenSealError as error:
        failure = f"{name} {error}"
    except KeyStoreUnavailableError as error:
        failure = f"{name} is sealed: {error}"
    except InvalidKeyError:
        failure = f"{name} does not hold a key; set it to the base64 of 32 bytes"
    raise InvalidKeyError(failure) from None


def in_both_generations(keys: Mapping[KeyVersion, object]) -> tuple[KeyVersion, ...]:
    """Returns two versions that have one number, or one key, but not the same generation; none: there are no such.

    Args:
        keys: `KeyMaterial` by version; entries of another type are no keys.
    """
    versions = sorted(keys)
    for at, version in enumerate(versions):
        for other in versions[at + 1 :]:
            same = isinstance(keys[version], KeyMaterial) and keys[version] == keys[other]
            if other == version.other_generation or (same and other.generation != version.generation):
                return version, other
    return ()


def _cipher(version: KeyVersion, material: KeyMaterial) -> "FieldCipher":
    # Not above: a pack's `verify.py`, which holds no key, has only Python's standard library.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    from keyrotation_pipeline.fieldcrypto.xaes import KcXaes256Gcm  # noqa: PLC0415

    return (AESGCM if version.generation == FIRST else KcXaes256Gcm)(raw_of(material))


class KeyRing:
    """Holds immutable key versions with a named primary; safe to share between threads.

    Args:
        keys: at least one, unless the primary is plaintext. The one key of another library is no version of the ring.
        primary: the version that `encrypt` uses; named, never inferred from the numbers. `PLAINTEXT`: nothing is
            encrypted yet.
        compromised: versions that may be read but never used for encryption again.

    Raises:
        InvalidKeyError: the primary is not among the keys, or is compromised; or a key is there for both generations.
    """

    __slots__ = ("_canary", "_ciphers", "_keys", "_names_primary", "_primary", "_sources")

    def __init__(
        self,
        keys: Mapping[KeyVersion, KeyMaterial],
        primary: KeyVersion,
        compromised: Collection[KeyVersion] = (),
    ) -> None:
        self._sources = {each.name: (version, each) for version, each in keys.items() if isinstance(each, SourceKey)}
        keys = {version: each for version, each in keys.items() if not isinstance(each, SourceKey)}
        if primary not in keys and primary != PLAINTEXT:
            raise InvalidKeyError(
                f"the primary {primary} is not in the key ring; store its key, or name another primary"
            )
        if primary in compromised:
            raise InvalidKeyError(
                f"{primary} is compromised, so nothing is encrypted under it again; name as the primary the version "
                "that replaced it, as `keyrotation status` shows it"
            )
        if misused := in_both_generations(keys):
            raise InvalidKeyError(
                f"{' and '.join(map(str, misused))} are one number or one key in both generations of the format, "
                "which is never allowed; leave out the unused one"
            )
        self._keys = keys
        self._ciphers = {
            version: _cipher(version, material)
            for version, material in keys.items()
            if not isinstance(material, AesKey | Passphrase | TransitKey)
        }
        self._primary = primary
        self._names_primary = True
        self._canary = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Builds a ring from ``ENCRYPTION_MASTER_KEY``, ``ENCRYPTION_MASTER_KEY_V2``, … and the named primary.

        ``ENCRYPTION_COMPROMISED_VERSIONS``, if set, names versions that are never used for encryption again.

        Args:
            environment: variables by name, such as a copy of the process environment; empty ones count as unset.

        Raises:
            InvalidKeyError: a variable is missing, misnamed or holds no key; names it, never what it holds.
        """
        keys = keys_in(environment)
        ring = cls(keys, primary_in(environment, keys), compromised_in(environment))
        ring._names_primary = is_primary_named(environment)
        ring._canary = environment.get(CANARY_VARIABLE, "").strip()
        return ring

    @classmethod
    def for_reading(cls, keys: Mapping[KeyVersion, KeyMaterial]) -> Self:
        """Returns a ring of some keys, such as those of a backup, under which nothing is encrypted.

        Without a version among them it decrypts nothing but values of other libraries.
        """
        versions = [version for version, each in keys.items() if not isinstance(each, SourceKey)]
        primary = max(versions, default=KeyVersion(MAX_VERSION_NUMBER))
        return cls(keys if versions else {**keys, primary: KeyMaterial.generate()}, primary)

    def canary(self) -> KeyMaterial | None:
        """Opens the key that shows that this process can open sealed ones; None: there is none.

        Not before it is asked for: an application that reads the ring would wait for a KMS that it does not need yet.

        Raises:
            InvalidKeyError: it cannot be opened.
        """
        return _material(CANARY_VARIABLE, CANARY, self._canary) if self._canary else None

    @property
    def primary(self) -> KeyVersion:
        """Returns the version that writes use."""
        return self._primary

    @property
    def names_primary(self) -> bool:
        """Returns whether the primary was named; if not, it is the only key, and a second one requires a name."""
        return self._names_primary

    @property
    def versions(self) -> tuple[KeyVersion, ...]:
        """Returns the versions that this ring reads, in order."""
        return tuple(sorted(self._keys))

    @property
    def sources(self) -> Mapping[str, tuple[KeyVersion, SourceKey]]:
        """Returns the keys of other libraries by name, each with the number under which it is stored and backed up."""
        return self._sources

    def material(self, version: KeyVersion) -> KeyMaterial:
        """Returns the key of one version.

        Raises:
            UnknownKeyVersionError: the ring does not hold it.
        """
        try:
            return self._keys[version]
        except KeyError:
            raise UnknownKeyVersionError(str(version)) from None

    def cipher(self, version: KeyVersion) -> "FieldCipher":
        """Returns the cipher of one version: always the same object, made once, safe between threads.

        Raises:
            NothingEncryptedYetError: it is that of plaintext.
            UnknownKeyVersionError: the ring does not hold it, or only what no cipher of our own format takes.
        """
        if version == PLAINTEXT:
            raise NothingEncryptedYetError
        try:
            return self._ciphers[version]
        except KeyError:
            raise UnknownKeyVersionError(str(version)) from None

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(map(str, self.versions))}; primary {self.primary})"
