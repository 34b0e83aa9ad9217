"""Fernet keys in the application's own notation: a list of which the first encrypts.

``FERNET_KEYS=new,old`` is what `cryptography.fernet.MultiFernet`, Airflow and the Django packages read.
"""

import base64
import binascii
from collections.abc import Sequence

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES, KeyMaterial


def keys_in_list(text: str, name: str) -> tuple[KeyMaterial, ...]:
    """Parses the application's list, in its order: the first key encrypts.

    Args:
        name: of the variable, for messages.

    Raises:
        InvalidKeyError: it holds no key, something that is not one, or a key twice; names the place, never a key.
    """
    keys: list[KeyMaterial] = []
    for place, each in enumerate(text.split(","), 1):
        key = _key(each.strip(), f"entry {place} of {name}")
        if key in keys:
            raise InvalidKeyError(f"entries {keys.index(key) + 1} and {place} of {name} are the same key; remove one")
        keys.append(key)
    return tuple(keys)


def as_list(keys: Sequence[KeyMaterial]) -> str:
    """Formats keys as the application's list, the one that encrypts first."""
    return ",".join(base64.urlsafe_b64encode(raw_of(key)).decode() for key in keys)


def _key(text: str, place: str) -> KeyMaterial:
    try:
        return KeyMaterial(base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True))
    except (binascii.Error, ValueError, InvalidKeyError):
        pass
    # Raised here, so that its context holds nothing of the text.
    raise InvalidKeyError(f"{place} is not a Fernet key; give the URL-safe base64 of {KEY_BYTES} bytes")
