"""Encrypts and decrypts one field.

In the first generation with AES-256-GCM, a random 96-bit nonce and no associated data; in the second with
KC-XAES-256-GCM, a random 192-bit nonce, and the column's label as associated data (`xaes`, `binding`).
"""

import os

from cryptography.exceptions import InvalidTag

from keyrotation_pipeline.errors import (
    AlreadyEncryptedError,
    DecryptionError,
    PlaintextEncodingError,
    UnknownKeyVersionError,
)
from keyrotation_pipeline.fieldcrypto.binding import Row, associated_data
from keyrotation_pipeline.fieldcrypto.grammar import Ciphertext, KeyVersion, any_value_in, parse, parsed
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, Defect, DefectKind


def encrypt(ring: KeyRing, plaintext: str, label: str | None = None, row: Row | None = None) -> str:
    """Encrypts a text (also the empty one) under the ring's primary, in the generation that the primary names.

    Args:
        label: of the column, which only the second generation binds.
        row: where values of the column may be bound to their row.

    Returns:
        The stored form, ``v<N>:<nonce>:<ciphertext ‖ tag>`` or ``v<N>x:<nonce>:<ciphertext ‖ tag ‖ commitment>``.

    Raises:
        AlreadyEncryptedError: the text is itself a stored value.
        PlaintextEncodingError: the text holds a lone surrogate, which UTF-8 cannot carry.
        InvalidBindingError: the second generation needs a label, or the key of the row.
    """
    text = utf8_of(plaintext)
    if any_value_in([text]):
        raise AlreadyEncryptedError
    nonce = os.urandom(ring.primary.generation.nonce_bytes)
    bound = associated_data(ring.primary, label, row)
    body = ring.cipher(ring.primary).encrypt(nonce, text, bound)
    return str(Ciphertext(ring.primary, nonce, body))


def decrypt(ring: KeyRing, stored: str, label: str | None = None, row: Row | None = None) -> str:
    """Decrypts a stored value under the version that it names.

    Args:
        label: of the column that it was read from.
        row: that it was read from, where values of the column may be bound to it.

    Raises:
        InvalidBindingError: it is of the second generation, and there is no label, or no key of its row.
        MalformedCiphertextError: it does not match the value grammar.
        UnknownKeyVersionError: the ring does not hold its version.
        DecryptionError: it fails authentication.
        PlaintextEncodingError: the plaintext is not UTF-8.
    """
    value = parse(stored)
    return _text(_opened(ring, value, label, row), value)


def _opened(ring: KeyRing, value: Ciphertext, label: str | None, row: Row | None) -> bytes:
    cipher = ring.cipher(value.version)
    bound = associated_data(value.version, label, row)
    try:
        return cipher.decrypt(value.nonce, value.body, bound)
    except InvalidTag:
        raise DecryptionError(str(value.version)) from None


# Python's own Unicode errors carry the whole text, and would stay reachable as `__context__` of an error raised while
# handling them: so ours are raised afterwards.


def utf8_of(plaintext: str) -> bytes:
    """Returns a text's bytes.

    Raises:
        PlaintextEncodingError: it holds a lone surrogate.
    """
    try:
        return plaintext.encode()
    except UnicodeEncodeError:
        pass
    raise PlaintextEncodingError(
        "a text holds a lone surrogate, which UTF-8 cannot carry; clean it before encrypting it"
    )


def _text(plaintext: bytes, value: Ciphertext) -> str:
    try:
        return plaintext.decode()
    except UnicodeDecodeError:
        pass
    raise PlaintextEncodingError(
        f"a value under key version {value.version} decrypts, but not to UTF-8 text; find out what wrote it"
    )


def plaintext(ring: KeyRing, stored: str, label: str | None, row: Row | None = None) -> bytes | Defect:
    """Returns the plaintext of a stored value, or what is wrong with the value."""
    value = parsed(stored)
    if value is None:
        return NOT_A_VALUE
    if row is not None and row.key is None:  # there is no row that it could be bound to
        return Defect(DefectKind.NOT_AUTHENTIC, value.version)
    try:
        text = _opened(ring, value, label, row)
    except UnknownKeyVersionError:
        return Defect(DefectKind.UNKNOWN_VERSION, value.version)
    except DecryptionError:
        return Defect(DefectKind.NOT_AUTHENTIC, value.version)
    return Defect(DefectKind.ENCRYPTED_TWICE, value.version) if any_value_in([text]) else text


def opened_by(ring: KeyRing, value: Ciphertext, label: str | None, row: Row | None = None) -> KeyVersion | None:
    """Returns the version whose key authenticates a value: the one it names, else any other in the ring, else None.

    Others are those of the same generation: a value says which cipher it is of.
    """
    same = (each for each in ring.versions if each.generation == value.version.generation)
    candidates = sorted(same, key=lambda each: each != value.version) if row is None or row.key is not None else []
    return next((version for version in candidates if _authenticates(ring, version, value, label, row)), None)


def _authenticates(ring: KeyRing, version: KeyVersion, value: Ciphertext, label: str | None, row: Row | None) -> bool:
    try:
        ring.cipher(version).decrypt(value.nonce, value.body, associated_data(version, label, row))
    except InvalidTag:
        return False
    return True
