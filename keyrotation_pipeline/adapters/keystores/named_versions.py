"""Reads and writes what a key store says besides keys: the primary, compromised versions, and whose they are."""

import json

from keyrotation_pipeline.errors import AuditError, InvalidKeyError, KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import versions_in
from keyrotation_pipeline.model.audit import canonical
from keyrotation_pipeline.model.keys import StoreOwner
from keyrotation_pipeline.model.records import as_json, read


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


def owner_named(text: str | None, place: str) -> StoreOwner | None:
    """Returns whose the keys are; see `primary_named`."""
    try:
        return None if text is None else read(StoreOwner, json.loads(text))
    except (AuditError, ValueError, RecursionError):
        raise KeyStoreDamagedError(
            f"{place}, which says whose the keys are, is damaged; find out who changed it, remove it, then run "
            "`keyrotation init`"
        ) from None


def text_of_owner(owner: StoreOwner) -> str:
    """Returns the text that `owner_named` reads."""
    return canonical(as_json(owner))
