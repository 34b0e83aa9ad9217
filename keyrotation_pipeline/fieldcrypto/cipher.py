"""Encryption and decryption of one field: AES-256-GCM, a random 96-bit nonce, no associated data.

The key of a stored value is the one that the value names. It is never found by trial: a value under a version that the
ring does not hold is an error, not a reason to try the other keys.

Source: the seed procedure, section 4.2; NIST SP 800-38D (at most 2^32 encryptions a key with random nonces).
"""

import os

from cryptography.exceptions import InvalidTag

from keyrotation_pipeline.errors import DecryptionError, PlaintextEncodingError
from keyrotation_pipeline.fieldcrypto.grammar import NONCE_BYTES, Ciphertext, parse
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing


def encrypt(ring: KeyRing, plaintext: str) -> str:
    """Encrypt a text (the empty one too) under the ring's primary.

    Returns:
        The stored form, ``v<N>:<nonce>:<ciphertext ‖ tag>``.

    Raises:
        PlaintextEncodingError: the text holds a lone surrogate, which UTF-8 cannot carry.
    """
    nonce = os.urandom(NONCE_BYTES)
    body = ring.cipher(ring.primary).encrypt(nonce, _utf8(plaintext), None)
    return str(Ciphertext(ring.primary, nonce, body))


def decrypt(ring: KeyRing, stored: str) -> str:
    """Decrypt a stored value under the version that it names.

    Raises:
        MalformedCiphertextError: not of the value grammar.
        UnknownKeyVersionError: the ring does not hold its version.
        DecryptionError: it fails authentication.
        PlaintextEncodingError: what was encrypted is not UTF-8.
    """
    value = parse(stored)
    return _text(_opened(ring, value), value)


def _opened(ring: KeyRing, value: Ciphertext) -> bytes:
    cipher = ring.cipher(value.version)
    try:
        return cipher.decrypt(value.nonce, value.body, None)
    except InvalidTag:
        raise DecryptionError(str(value.version)) from None


# Python's own Unicode errors carry the whole text, and stay reachable as `__context__` of an error raised while they
# are handled: so ours are raised afterwards.


def _utf8(plaintext: str) -> bytes:
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
