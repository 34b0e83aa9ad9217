"""Keys that an application's package derives: what is stored and rotated is what they are derived from.

====================================  ===================================================================
``sha256``                            SHA-256(passphrase), as FernetEngine and AesGcmEngine of sqlalchemy-utils have it
``django-fernet-fields``              HKDF-SHA256(passphrase), salt and info fixed: an entry of FERNET_KEYS
``django-fernet-encrypted-fields``    PBKDF2-SHA256(SECRET_KEY, SALT_KEY, 100 000), of a pair ``SECRET_KEY:SALT_KEY``
``lockbox``                           HKDF-SHA384(master key) for each column, by a label: ``users.email_ciphertext``
====================================  ===================================================================

Source: the packages' own text: sqlalchemy-utils 0.43, django-fernet-fields 0.6 (and djfernet 0.8,
django-fernet-fields-v2 0.9), django-fernet-encrypted-fields 0.4, Lockbox 1.3 (`KeyGenerator#attribute_key`).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyrotation_pipeline.errors import InvalidBindingError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.batch import Labels
from keyrotation_pipeline.fieldcrypto.codecs.value_format import AES_GCM, FERNET, Derivation
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES, KeyMaterial, Passphrase

PAIR_SEPARATOR = b":"
_PACKAGE = b"django-fernet-fields"
_ROUNDS = 100_000


def _of_pair(pair: bytes) -> bytes:
    secret, _, salt = pair.partition(PAIR_SEPARATOR)
    return hashlib.pbkdf2_hmac("sha256", secret, salt, _ROUNDS, KEY_BYTES)


_DERIVE: Mapping[Derivation, Callable[[bytes], bytes]] = MappingProxyType(
    {
        Derivation.SHA256: lambda text: hashlib.sha256(text).digest(),
        Derivation.DJANGO_FERNET_FIELDS: lambda text: HKDF(
            SHA256(), KEY_BYTES, salt=_PACKAGE + b"-hkdf-salt", info=_PACKAGE
        ).derive(text),
        Derivation.DJANGO_FERNET_ENCRYPTED_FIELDS: _of_pair,
    }
)
# Of each format whose packages derive keys by one of these.
DERIVATIONS: Mapping[str, tuple[Derivation, ...]] = MappingProxyType(
    {FERNET.name: tuple(_DERIVE), AES_GCM.name: (Derivation.SHA256, Derivation.LOCKBOX)}
)
_LOCKBOX_INFO = b"\xb4" * 32


@lru_cache(maxsize=64)
def _derived(derivation: Derivation, material: KeyMaterial) -> KeyMaterial:
    return KeyMaterial(_DERIVE[derivation](raw_of(material)))


def derived_ring(derivation: Derivation | None, ring: KeyRing) -> KeyRing:
    """Returns the keys that the application encrypts with, by the versions of what it derives them from.

    Args:
        derivation: None: the keys of the ring are these. None that makes keys for each column: see `column_rings`.

    Raises:
        InvalidKeyError: the ring holds passphrases, and nothing says how keys are derived from them.
    """
    if derivation is None:
        if any(isinstance(ring.material(version), Passphrase) for version in ring.versions):
            raise InvalidKeyError(
                "the key store holds what keys are derived from, and [format] does not say how; write the derivation "
                "with which the keys were imported"
            )
        return ring
    return KeyRing({each: _derived(derivation, ring.material(each)) for each in ring.versions}, ring.primary)


def column_rings(derivation: Derivation | None, ring: KeyRing, labels: Labels) -> Sequence[KeyRing]:
    """Returns the keys of each column of a batch, where columns have keys of their own; (): they do not.

    Args:
        labels: of the columns.

    Raises:
        InvalidBindingError: a column has no label, so that nothing says which keys it has.
    """
    if derivation is not Derivation.LOCKBOX:
        return ()
    if not labels:
        raise InvalidBindingError("values whose keys are derived for each column are of an unknown column")
    return [
        KeyRing({each: _of_column(ring.material(each), label or "") for each in ring.versions}, ring.primary)
        for label in labels
    ]


def require_column(label: str | None) -> tuple[str, str]:
    """Returns the table and the attribute that a label names for Lockbox.

    Raises:
        InvalidBindingError: it names none.
    """
    table, _, attribute = (label or "").rpartition(".")
    if not table or not attribute:
        raise InvalidBindingError(
            "Lockbox derives a key for each column from the names of its table and of the column, which a dot divides "
            "here, as in users.email_ciphertext"
        )
    return table, attribute


@lru_cache(maxsize=1024)
def _of_column(material: KeyMaterial, label: str) -> KeyMaterial:
    table, attribute = require_column(label)
    info = _LOCKBOX_INFO + attribute.encode()
    return KeyMaterial(HKDF(SHA384(), KEY_BYTES, salt=table.encode(), info=info).derive(raw_of(material)))


def place_ring(derivation: Derivation | None, ring: KeyRing, label: str | None) -> KeyRing:
    """Returns the keys of the values of one place.

    Raises:
        InvalidBindingError, InvalidKeyError: see `column_rings` and `derived_ring`.
    """
    own = column_rings(derivation, ring, [label])
    return own[0] if own else derived_ring(derivation, ring)


def new_passphrase(derivation: Derivation, before: KeyMaterial | None) -> Passphrase:
    """Generates what a new key is derived from.

    Args:
        before: the primary, of whose pair the SECRET_KEY stays, which signs sessions too; None: nothing of it may stay.
    """
    generated = Passphrase.generate()
    if derivation is not Derivation.DJANGO_FERNET_ENCRYPTED_FIELDS:
        return generated
    secret = raw_of(before or Passphrase.generate()).partition(PAIR_SEPARATOR)[0]
    return Passphrase(secret + PAIR_SEPARATOR + raw_of(generated))
