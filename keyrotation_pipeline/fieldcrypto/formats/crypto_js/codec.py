"""Opens and seals what crypto-js' `AES.encrypt(text, passphrase).toString()` writes.

Base64 of ``Salted__``, a salt of 8 bytes and AES-256-CBC with PKCS 7; key and IV come from EVP_BytesToKey, by one pass
of MD5. There is no tag.
"""

import os
from base64 import b64encode
from collections.abc import Mapping
from hashlib import md5

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keyrotation_pipeline.fieldcrypto.codecs.block_padding import padded, unpadded
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source, canonical_base64

_HEAD, _SALT_BYTES, _KEY_BYTES, _IV_BYTES = b"Salted__", 8, 32, 16


def source(name: str, key: bytes, options: Mapping[str, str]) -> Source:  # noqa: ARG001  there is one, without any
    """Returns what opens and seals values under the application's passphrase."""
    return _Passphrase(key)


class _Passphrase:
    def __init__(self, passphrase: bytes) -> None:
        self._passphrase = passphrase

    def opened(self, stored: bytes) -> bytes:
        raw = canonical_base64(stored)
        salt, body = raw[len(_HEAD) :][:_SALT_BYTES], raw[len(_HEAD) + _SALT_BYTES :]
        if not raw.startswith(_HEAD) or not body or len(body) % _IV_BYTES:
            raise ClosedError
        decryptor = self._cipher(salt).decryptor()
        return unpadded(decryptor.update(body) + decryptor.finalize())

    def sealed(self, text: bytes) -> bytes:
        salt = os.urandom(_SALT_BYTES)
        encryptor = self._cipher(salt).encryptor()
        return b64encode(_HEAD + salt + encryptor.update(padded(text)) + encryptor.finalize())

    def _cipher(self, salt: bytes) -> Cipher[modes.CBC]:
        derived = block = b""
        while len(derived) < _KEY_BYTES + _IV_BYTES:
            block = md5(block + self._passphrase + salt, usedforsecurity=False).digest()
            derived += block
        return Cipher(algorithms.AES(derived[:_KEY_BYTES]), modes.CBC(derived[_KEY_BYTES:]))
