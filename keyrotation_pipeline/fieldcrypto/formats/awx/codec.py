"""Opens and seals the values of AWX: ``$encrypted$UTF8$AESCBC$`` before the base64 of a token, itself in base64url.

The token has the bytes of Fernet (``0x80``, time (8), IV (16), AES-CBC, HMAC-SHA256), but AES has 256 bits. Its two
keys are the halves of SHA-512 over SECRET_KEY, the primary key of the row if there is one, and the field's name. As it
is read, such a value has the primary key behind it: ``<value>;<key>``. Older ones lack ``UTF8$``.
"""

import hashlib
import hmac
import os
import time
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keyrotation_pipeline.fieldcrypto.codecs.block_padding import padded, unpadded
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source, canonical_base64
from keyrotation_pipeline.fieldcrypto.codecs.value_format import BETWEEN

_HEAD, _OLDER_HEAD = b"$encrypted$UTF8$AESCBC$", b"$encrypted$AESCBC$"
_VERSION, _TIME_BYTES, _IV_BYTES, _MAC_BYTES, _KEY_BYTES = b"\x80", 8, 16, 32, 32
_BODY = len(_VERSION) + _TIME_BYTES + _IV_BYTES
_BETWEEN = BETWEEN.encode()
# Of the row that a value is sealed for, which nothing stores: values in several columns are not given back.
_SOME_ROW = b"1"


def source(name: str, key: bytes, options: Mapping[str, str]) -> Source:  # noqa: ARG001  there is one
    """Returns what opens and seals the values of one field under SECRET_KEY."""
    field = options["field"].encode()
    return _OfRows(key, field) if "pk" in options else _Field(key, field)


class _Field:
    """Values of a field that no row has a part in."""

    def __init__(self, secret: bytes, field: bytes) -> None:
        self._secret, self._field = secret, field

    def opened(self, stored: bytes) -> bytes:
        return self._opened(stored)

    def sealed(self, text: bytes) -> bytes:
        return self._sealed(text)

    def _opened(self, stored: bytes, row: bytes = b"") -> bytes:
        head = next((each for each in (_HEAD, _OLDER_HEAD) if stored.startswith(each)), None)
        if head is None:
            raise ClosedError
        token = _token(canonical_base64(stored.removeprefix(head)))
        signed, mac = token[:-_MAC_BYTES], token[-_MAC_BYTES:]
        iv, body = signed[_BODY - _IV_BYTES : _BODY], signed[_BODY:]
        signing, key = _keys(self._secret, row, self._field)
        if not signed.startswith(_VERSION) or not hmac.compare_digest(mac, hmac.digest(signing, signed, "sha256")):
            raise ClosedError
        if not body or len(body) % _IV_BYTES:
            raise ClosedError
        decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
        return unpadded(decryptor.update(body) + decryptor.finalize())

    def _sealed(self, text: bytes, row: bytes = b"") -> bytes:
        signing, key = _keys(self._secret, row, self._field)
        iv = os.urandom(_IV_BYTES)
        encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
        body = encryptor.update(padded(text)) + encryptor.finalize()
        signed = _VERSION + int(time.time()).to_bytes(_TIME_BYTES, "big") + iv + body
        return _HEAD + b64encode(urlsafe_b64encode(signed + hmac.digest(signing, signed, "sha256")))


class _OfRows(_Field):
    """Values under a key of their row, whose primary key is read behind each."""

    def opened(self, stored: bytes) -> bytes:
        value, between, row = stored.rpartition(_BETWEEN)
        if not between or not row:
            raise ClosedError
        return self._opened(value, row)

    def sealed(self, text: bytes) -> bytes:
        return self._sealed(text, _SOME_ROW) + _BETWEEN + _SOME_ROW


@lru_cache(maxsize=4)  # what is sealed is opened again
def _keys(secret: bytes, row: bytes, field: bytes) -> tuple[bytes, bytes]:
    both = hashlib.sha512(secret + row + field).digest()
    return both[:_KEY_BYTES], both[_KEY_BYTES:]


def _token(text: bytes) -> bytes:
    """Decodes base64url exactly as it is written."""
    try:
        raw = urlsafe_b64decode(text)
    except Base64Error:
        raise ClosedError from None
    if urlsafe_b64encode(raw) != text:
        raise ClosedError
    return raw
