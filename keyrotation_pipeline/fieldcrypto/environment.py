"""The environment variables in which an application gets its keys.

``ENCRYPTION_MASTER_KEY`` is v1 and ``ENCRYPTION_MASTER_KEY_V2``, ``_V3`` … the later ones, as in the seed procedure
(section 4.1); ``ENCRYPTION_PRIMARY_VERSION`` names the one that writes use, and ``ENCRYPTION_COMPROMISED_VERSIONS``
those that writes must never use again (``v1,v2``). An empty variable counts as unset.
"""

import re
from collections.abc import Iterable, Mapping

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import MAX_VERSION_NUMBER, KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

FIRST_KEY_VARIABLE = "ENCRYPTION_MASTER_KEY"
PRIMARY_VARIABLE = "ENCRYPTION_PRIMARY_VERSION"
COMPROMISED_VARIABLE = "ENCRYPTION_COMPROMISED_VERSIONS"

# Also what was meant to be such a name, so that a key is never passed over because of a slip.
_NUMBERED = re.compile(rf"{FIRST_KEY_VARIABLE}_?V?_?0*([0-9]+)", re.ASCII | re.IGNORECASE)


def variable_of(version: KeyVersion) -> str:
    """The variable that holds a version: ``ENCRYPTION_MASTER_KEY`` for v1, ``ENCRYPTION_MASTER_KEY_V2`` for v2."""
    return FIRST_KEY_VARIABLE if version.number == 1 else f"{FIRST_KEY_VARIABLE}_V{version.number}"


def version_in(name: str) -> KeyVersion | None:
    """The version that a variable holds; None for a variable that is not about keys.

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
    version = KeyVersion(number)
    if name != variable_of(version):
        raise InvalidKeyError(f"{name} is not a name under which a key is read; call it {variable_of(version)}")
    return version


def keys_in(environment: Mapping[str, str]) -> dict[KeyVersion, KeyMaterial]:
    """Every key that is set.

    Raises:
        InvalidKeyError: none is set, one is not a key, or a variable is misnamed (``…_V1``, ``…_V02``); names it.
    """
    keys = {}
    for name in sorted(environment):
        version = version_in(name) if environment[name].strip() else None
        if version is not None:
            keys[version] = _material(name, environment[name])
    if not keys:
        raise InvalidKeyError(f"no key is set; set {FIRST_KEY_VARIABLE} to the base64 of 32 bytes")
    return keys


def primary_in(environment: Mapping[str, str], keys: Mapping[KeyVersion, KeyMaterial]) -> KeyVersion:
    """The version that writes use: the named one, else the only one.

    Raises:
        InvalidKeyError: several keys and none named, or what is named is no version or not set.
    """
    name = environment.get(PRIMARY_VARIABLE, "").strip()
    if name:
        return _named_primary(name, keys)
    if len(keys) > 1:
        choices = " or ".join(str(version) for version in sorted(keys))
        raise InvalidKeyError(f"several keys are set and none is the primary; set {PRIMARY_VARIABLE} to {choices}")
    return next(iter(keys))


def is_primary_named(environment: Mapping[str, str]) -> bool:
    """Whether the version that writes use is named, and not only the one key that is set."""
    return bool(environment.get(PRIMARY_VARIABLE, "").strip())


def compromised_in(environment: Mapping[str, str]) -> frozenset[KeyVersion]:
    """The versions that must never be the primary again; keys of them may be set, for reading.

    Raises:
        InvalidKeyError: what is there is no list of versions.
    """
    try:
        return versions_in(environment.get(COMPROMISED_VARIABLE, ""))
    except InvalidKeyError:
        raise InvalidKeyError(f"{COMPROMISED_VARIABLE} does not name key versions; write them as v1,v2") from None


def versions_in(text: str) -> frozenset[KeyVersion]:
    """Versions from ``v1,v2``; none from an empty text.

    Raises:
        InvalidKeyError: one of them is no version.
    """
    return frozenset(KeyVersion.parse(each.strip()) for each in text.split(",")) if text.strip() else frozenset()


def versions_as_text(versions: Iterable[KeyVersion]) -> str:
    """``v1,v2``, in order."""
    return ",".join(map(str, sorted(versions)))


def _named_primary(name: str, keys: Mapping[KeyVersion, KeyMaterial]) -> KeyVersion:
    try:
        primary = KeyVersion.parse(name)
    except InvalidKeyError:
        # Without what it holds: somebody may have put a key there.
        raise InvalidKeyError(f"{PRIMARY_VARIABLE} does not name a key version; write it as v1, v2, …") from None
    if primary not in keys:
        raise InvalidKeyError(
            f"{PRIMARY_VARIABLE} is {primary}, but {variable_of(primary)} is not set; set it, or name another primary"
        )
    return primary


def _material(name: str, text: str) -> KeyMaterial:
    try:
        return key_from_base64(text)
    except InvalidKeyError:
        raise InvalidKeyError(f"{name} does not hold a key; set it to the base64 of 32 bytes") from None
