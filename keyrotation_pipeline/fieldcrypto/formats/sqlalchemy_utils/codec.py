"""Opens and seals the values of sqlalchemy-utils' AesEngine and AesGcmEngine, as these do.

Both take SHA-256 of the key. AesEngine: base64 of AES-256-CBC, whose IV is the first half of that key, without a tag.
AesGcmEngine: base64 of nonce (12 bytes), tag (16) and ciphertext.
"""

import os
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import ANSIX923, PKCS7

from keyrotation_pipeline.fieldcrypto.codecs.block_padding import BLOCK_BYTES, BY_PKCS7, padded, unpadded
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source, canonical_base64
from keyrotation_pipeline.fieldcrypto.formats.sqlalchemy_utils import AES

_NONCE, _TAG = 12, 16
_PADDINGS: Mapping[str, PKCS7 | ANSIX923] = {"pkcs5": BY_PKCS7, "zeroes": ANSIX923(8 * BLOCK_BYTES)}


def source(name: str, key: bytes, options: Mapping[str, str]) -> Source:
    """Returns what opens and seals values under the application's key."""
    derived = sha256(key).digest()
    return _Aes(derived, options["padding"]) if name == AES.name else _AesGcm(derived)


class _Aes:
    """AesEngine. Stricter than it: a value opens only with all of the padding that the engine writes."""

    def __init__(self, key: bytes, padding: str) -> None:
        self._cipher = Cipher(algorithms.AES(key), modes.CBC(key[:BLOCK_BYTES]))
        self._padding = padding

    def opened(self, stored: bytes) -> bytes:
        body = canonical_base64(stored)
        if not body or len(body) % BLOCK_BYTES:
            raise ClosedError
        decryptor = self._cipher.decryptor()
        return self._unpadded(decryptor.update(body) + decryptor.finalize())

    def sealed(self, text: bytes) -> bytes:
        encryptor = self._cipher.encryptor()
        return b64encode(encryptor.update(self._padded(text)) + encryptor.finalize())

    def _padded(self, text: bytes) -> bytes:
        size = BLOCK_BYTES - len(text) % BLOCK_BYTES
        match self._padding:
            case "naive":
                return text + b"*" * size
            case "oneandzeroes" if text.endswith(b"\x80"):
                raise ClosedError  # which the engine takes away when it reads
            case "oneandzeroes":
                return text + b"\x80" + bytes(size - 1)
        return padded(text, _PADDINGS[self._padding])

    def _unpadded(self, text: bytes) -> bytes:
        match self._padding:
            case "naive":
                # The engine takes away every asterisk, also of a text that ended with some: it reads it without them.
                found = text.rstrip(b"*")
                if found == text:
                    raise ClosedError
                return found
            case "oneandzeroes":
                found = text.rstrip(b"\0")
                if not found.endswith(b"\x80") or len(text) - len(found) >= BLOCK_BYTES:
                    raise ClosedError
                return found[:-1]
        return unpadded(text, _PADDINGS[self._padding])


class _AesGcm:
    """AesGcmEngine."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def opened(self, stored: bytes) -> bytes:
        raw = canonical_base64(stored)
        if len(raw) < _NONCE + _TAG:
            raise ClosedError
        nonce, tag, body = raw[:_NONCE], raw[_NONCE : _NONCE + _TAG], raw[_NONCE + _TAG :]
        try:
            return self._cipher.decrypt(nonce, body + tag, None)
        except InvalidTag:
            raise ClosedError from None

    def sealed(self, text: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        body = self._cipher.encrypt(nonce, text, None)
        return b64encode(nonce + body[-_TAG:] + body[:-_TAG])
