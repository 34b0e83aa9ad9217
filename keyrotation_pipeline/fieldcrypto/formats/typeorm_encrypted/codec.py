"""Opens and seals the values of typeorm-encrypted: base64 of IV (16 bytes), tag (16, of GCM), ciphertext.

The key is configured as 64 hexadecimal digits.
"""

import os
from base64 import b64encode
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.block_padding import padded, unpadded
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source, canonical_base64
from keyrotation_pipeline.fieldcrypto.formats.typeorm_encrypted import CBC

_IV, _TAG, _KEY_BYTES = 16, 16, 32


def source(name: str, key: bytes, options: Mapping[str, str]) -> Source:  # noqa: ARG001  there are none
    """Returns what opens and seals values under the application's key.

    Raises:
        InvalidKeyError: it is not 64 hexadecimal digits.
    """
    try:
        raw = bytes.fromhex(key.decode("ascii"))
    except ValueError:
        raw = b""
    if len(raw) != _KEY_BYTES or len(key) != 2 * _KEY_BYTES:
        raise InvalidKeyError(f"a key of {name} has {2 * _KEY_BYTES} hexadecimal digits; give it as the library has it")
    return _Cbc(raw) if name == CBC.name else _Gcm(raw)


class _Cbc:
    def __init__(self, key: bytes) -> None:
        self._key = algorithms.AES(key)

    def opened(self, stored: bytes) -> bytes:
        raw = canonical_base64(stored)
        if len(raw) < 2 * _IV or len(raw) % _IV:
            raise ClosedError
        decryptor = Cipher(self._key, modes.CBC(raw[:_IV])).decryptor()
        return unpadded(decryptor.update(raw[_IV:]) + decryptor.finalize())

    def sealed(self, text: bytes) -> bytes:
        iv = os.urandom(_IV)
        encryptor = Cipher(self._key, modes.CBC(iv)).encryptor()
        return b64encode(iv + encryptor.update(padded(text)) + encryptor.finalize())


class _Gcm:
    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def opened(self, stored: bytes) -> bytes:
        raw = canonical_base64(stored)
        if len(raw) < _IV + _TAG:
            raise ClosedError
        try:
            return self._cipher.decrypt(raw[:_IV], raw[_IV + _TAG :] + raw[_IV : _IV + _TAG], None)
        except InvalidTag:
            raise ClosedError from None

    def sealed(self, text: bytes) -> bytes:
        iv = os.urandom(_IV)
        body = self._cipher.encrypt(iv, text, None)
        return b64encode(iv + body[-_TAG:] + body[:-_TAG])
