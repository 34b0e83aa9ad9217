"""Reads what a key store says of its versions: which one is the primary, and which are compromised."""

from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import versions_in


def primary_named(text: str | None, place: str) -> KeyVersion | None:
    """Returns the version that is named as the primary; None: nothing is named.

    Args:
        place: where it is named, for messages.

    Raises:
        KeyStoreDamagedError: what is named is not a version.
    """
    try:
        return None if text is None else KeyVersion.parse(text)
    except InvalidKeyError:
        raise KeyStoreDamagedError(f"{place} does not name a key version; write v1, v2, … there") from None


def compromised_named(text: str | None, place: str) -> frozenset[KeyVersion]:
    """Returns the versions that applications never encrypt under again; see `primary_named`."""
    try:
        return versions_in(text or "")
    except InvalidKeyError:
        raise KeyStoreDamagedError(f"{place} does not name key versions; write them there as v1,v2") from None
