r"""Opens and seals the values of attr_encrypted, whose IV, and salt if there is one, are in columns of their own.

As they are read: ``<value>;<IV>`` or ``<value>;<IV>;<salt>``. Each is base64 in lines of 60 characters (Ruby's
``pack("m")``), a salt with ``_`` before it, or in bytea the bytes themselves. AES-256-GCM puts its tag behind the
ciphertext; AES-256-CBC has none. With a salt the key is derived from the application's by PBKDF2-SHA-1.
"""

import hashlib
import os
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.block_padding import padded, unpadded
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source, canonical_base64, in_lines
from keyrotation_pipeline.fieldcrypto.codecs.value_format import BETWEEN
from keyrotation_pipeline.fieldcrypto.formats.attr_encrypted import CBC

_KEY_BYTES, _GCM_IV_BYTES, _CBC_IV_BYTES, _TAG_BYTES, _SALT_BYTES = 32, 12, 16, 16, 16
_ROUNDS, _SALT_HEAD = 2000, b"_"
_BETWEEN = BETWEEN.encode()
_BYTES_HEAD = b"\\x"  # as PostgreSQL writes bytea


def source(name: str, key: bytes, options: Mapping[str, str]) -> Source:
    """Returns what opens and seals values under the application's key.

    Raises:
        InvalidKeyError: it does not have 32 bytes, or with a salt fewer.
    """
    cipher = _Cbc() if name == CBC.name else _Gcm()
    if "salt" not in options:
        return _Parts(cipher, _raw_key(key))
    if len(key) < _KEY_BYTES:
        raise InvalidKeyError(f"a key of {name} has {_KEY_BYTES} bytes at least; give it as the application has it")
    return _SaltedParts(cipher, key)


def _raw_key(key: bytes) -> bytes:
    if len(key) == _KEY_BYTES:
        return key
    try:
        raw = bytes.fromhex(key.decode("ascii")) if len(key) == 2 * _KEY_BYTES else canonical_base64(key)
    except ValueError:
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise InvalidKeyError(
            f"a key of attr_encrypted has {_KEY_BYTES} bytes; give them as they are, in hexadecimal or in base64"
        )
    return raw


class _Gcm:
    iv_bytes = _GCM_IV_BYTES

    def decrypt(self, key: bytes, iv: bytes, body: bytes) -> bytes:
        try:
            return AESGCM(key).decrypt(iv, body, None)
        except InvalidTag:
            raise ClosedError from None

    def encrypt(self, key: bytes, iv: bytes, text: bytes) -> bytes:
        return AESGCM(key).encrypt(iv, text, None)


class _Cbc:
    iv_bytes = _CBC_IV_BYTES

    def decrypt(self, key: bytes, iv: bytes, body: bytes) -> bytes:
        if not body or len(body) % _CBC_IV_BYTES:
            raise ClosedError
        decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
        return unpadded(decryptor.update(body) + decryptor.finalize())

    def encrypt(self, key: bytes, iv: bytes, text: bytes) -> bytes:
        encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
        return encryptor.update(padded(text)) + encryptor.finalize()


class _Parts:
    """A value and its IV."""

    def __init__(self, cipher: _Gcm | _Cbc, key: bytes) -> None:
        self._cipher, self._key = cipher, key

    def opened(self, stored: bytes) -> bytes:
        value, *parts = stored.rsplit(_BETWEEN, 1)
        return self._opened(self._key, value, parts)

    def sealed(self, text: bytes) -> bytes:
        return self._sealed(self._key, text)

    def _opened(self, key: bytes, value: bytes, parts: list[bytes]) -> bytes:
        iv, body = (_part(parts[0]) if parts else b""), _lines(value)
        if len(iv) != self._cipher.iv_bytes or len(body or value) < _TAG_BYTES:
            raise ClosedError
        return self._cipher.decrypt(key, iv, value if body is None else body)

    def _sealed(self, key: bytes, text: bytes) -> bytes:
        iv = os.urandom(self._cipher.iv_bytes)
        return in_lines(self._cipher.encrypt(key, iv, text)) + _BETWEEN + in_lines(iv)


class _SaltedParts(_Parts):
    """A value, its IV and its salt."""

    def opened(self, stored: bytes) -> bytes:
        value, *parts = stored.rsplit(_BETWEEN, 2)
        salt = _part(parts.pop().removeprefix(_SALT_HEAD)) if len(parts) > 1 else b""
        if not salt:
            raise ClosedError
        return self._opened(_derived(self._key, salt), value, parts)

    def sealed(self, text: bytes) -> bytes:
        salt = os.urandom(_SALT_BYTES)
        return self._sealed(_derived(self._key, salt), text) + _BETWEEN + _SALT_HEAD + in_lines(salt)


@lru_cache(maxsize=4)  # what is sealed is opened again
def _derived(key: bytes, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha1", key, salt, _ROUNDS, _KEY_BYTES)


def _part(text: bytes) -> bytes:
    """Returns the bytes of an IV or a salt, as text in base64 or as PostgreSQL writes bytea."""
    if (raw := _lines(text)) is not None:
        return raw
    try:
        return bytes.fromhex(text.removeprefix(_BYTES_HEAD).decode("ascii")) if text.startswith(_BYTES_HEAD) else b""
    except ValueError:
        return b""


def _lines(text: bytes) -> bytes | None:
    """Decodes base64 in lines, exactly as Ruby writes it; None: it is not that."""
    try:
        raw = b64decode(text)
    except Base64Error:
        return None
    return raw if raw and in_lines(raw) == text else None
