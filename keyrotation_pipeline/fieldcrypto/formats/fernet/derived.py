"""Derives Fernet keys as packages for Django do.

Source: the packages' own text: django-fernet-fields 0.6 (and djfernet 0.8, django-fernet-fields-v2 0.9),
django-fernet-encrypted-fields 0.4.
"""

import hashlib

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import PAIR_SEPARATOR
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES

_PACKAGE = b"django-fernet-fields"
_ROUNDS = 100_000


def of_fernet_fields(text: bytes) -> bytes:
    """HKDF-SHA256 of an entry of FERNET_KEYS, with fixed salt and info."""
    return HKDF(SHA256(), KEY_BYTES, salt=_PACKAGE + b"-hkdf-salt", info=_PACKAGE).derive(text)


def of_pair(pair: bytes) -> bytes:
    """PBKDF2-SHA256 of a pair ``SECRET_KEY:SALT_KEY``."""
    secret, _, salt = pair.partition(PAIR_SEPARATOR)
    return hashlib.pbkdf2_hmac("sha256", secret, salt, _ROUNDS, KEY_BYTES)
