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

from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source, canonical_base64
from keyrotation_pipeline.fieldcrypto.formats.sqlalchemy_utils import AES

_BLOCK, _NONCE, _TAG = 16, 12, 16


def source(name: str, key: bytes, options: Mapping[str, str]) -> Source:
    """Returns what opens and seals values under the application's key."""
    derived = sha256(key).digest()
    return _Aes(derived, options["padding"]) if name == AES.name else _AesGcm(derived)


class _Aes:
    """AesEngine. Stricter than it: a value opens only with all of the padding that the engine writes."""

    def __init__(self, key: bytes, padding: str) -> None:
        self._cipher = Cipher(algorithms.AES(key), modes.CBC(key[:_BLOCK]))
        self._padding = padding

    def opened(self, stored: bytes) -> bytes:
        body = canonical_base64(stored)
        if not body or len(body) % _BLOCK:
            raise ClosedError
        decryptor = self._cipher.decryptor()
        return self._unpadded(decryptor.update(body) + decryptor.finalize())

    def sealed(self, text: bytes) -> bytes:
        if self._padding == "oneandzeroes" and text.endswith(b"\x80"):
            raise ClosedError  # which the engine takes away when it reads
        encryptor = self._cipher.encryptor()
        size = _BLOCK - len(text) % _BLOCK
        return b64encode(encryptor.update(text + self._of(size)) + encryptor.finalize())

    def _unpadded(self, padded: bytes) -> bytes:
        if self._padding == "naive":
            # The engine takes away every asterisk, also of a text that ended with some: it reads it without them.
            text = padded.rstrip(b"*")
            if text == padded:
                raise ClosedError
            return text
        zeroes = len(padded) - len(padded.rstrip(b"\0"))
        size = zeroes + 1 if self._padding == "oneandzeroes" else padded[-1]
        if not 1 <= size <= _BLOCK or not padded.endswith(self._of(size)):
            raise ClosedError
        return padded[:-size]

    def _of(self, size: int) -> bytes:
        match self._padding:
            case "naive":
                return b"*" * size
            case "oneandzeroes":
                return b"\x80" + bytes(size - 1)
            case "zeroes":
                return bytes(size - 1) + bytes([size])
        return bytes([size]) * size


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
