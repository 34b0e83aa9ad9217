"""Fernet keys in the application's own notation: a list of which the first encrypts, and keys made of passphrases.

``FERNET_KEYS=new,old`` is what `cryptography.fernet.MultiFernet`, Airflow and the Django packages read.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES, KeyMaterial

_PBKDF2_ROUNDS = 100_000


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


def _sha256(secret: bytes, _salt: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _pbkdf2(secret: bytes, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", secret, salt, _PBKDF2_ROUNDS, KEY_BYTES)


def _hkdf(secret: bytes, _salt: bytes) -> bytes:
    salt, info = b"django-fernet-fields-hkdf-salt", b"django-fernet-fields"
    return HKDF(SHA256(), KEY_BYTES, salt, info).derive(secret)


# How packages make a key of a passphrase: sqlalchemy-utils' FernetEngine; django-fernet-encrypted-fields, of SECRET_KEY
# and each entry of SALT_KEY; django-fernet-fields, of each entry of FERNET_KEYS.
DERIVATIONS: Mapping[str, Callable[[bytes, bytes], bytes]] = MappingProxyType(
    {"sha256": _sha256, "pbkdf2": _pbkdf2, "hkdf": _hkdf}
)


def derived(derivation: str, secret: str, salt: str = "") -> KeyMaterial:
    """Makes the key that a package makes of a passphrase.

    Args:
        derivation: a name in `DERIVATIONS`.
        salt: only for ``pbkdf2``.
    """
    return KeyMaterial(DERIVATIONS[derivation](secret.encode(), salt.encode()))
