"""Opens and seals the text fields of CipherSweet, a PHP library: ``brng:``, ``nacl:`` or ``fips:`` before base64url.

The key of a field is HKDF-SHA-384 of the application's, with the table's name as salt, and the field's in `info`.

- BoringCrypto: nonce (24), BLAKE2b of 32 bytes over everything, XChaCha20.
- ModernCrypto: nonce (24), XChaCha20-Poly1305 with the nonce as associated data.
- FIPSCrypto: salt (32), nonce (16), HMAC-SHA-384, AES-256-CTR; both keys are derived with the salt.

Values that are bound to another field (`setAadSourceField`) stay closed. So do numbers and booleans: CipherSweet writes
them as bytes, which no text has.
"""

import hashlib
import hmac
import os
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source

_KEY_BYTES, _HEX_CHARS, _BASE64_CHARS = 32, 64, 44
_FIELD = b"\xb4" * 32
_NONCE_BYTES, _HALF_BYTES = 24, 16
_BLAKE_BYTES, _TAG_BYTES = 32, 16
_SALT_BYTES, _COUNTER_BYTES, _SHA384_BYTES = 32, 16, 48
_WORDS = struct.Struct("<16I")
_CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")
_BOOLEANS = (b"\x01", b"\x02")


def source(name: str, key: bytes, options: Mapping[str, str]) -> Source:
    """Returns what opens and seals the values of one field.

    Raises:
        InvalidKeyError: it is no key as CipherSweet's StringProvider takes it.
    """
    field_key = _hkdf(_root_key(key), options["table"].encode(), _FIELD + options["column"].encode())
    back_ends: Mapping[str, Callable[[bytes], _BackEnd]] = {"brng": _Boring, "nacl": _Modern, "fips": _Fips}
    head = name.rpartition("-")[2]
    return _Field(head, back_ends[head](field_key))


def _root_key(key: bytes) -> bytes:
    decode: Mapping[int, Callable[[bytes], bytes]] = {_HEX_CHARS: _from_hex, _BASE64_CHARS: _from_base64url}
    try:
        raw = decode.get(len(key), bytes)(key)
    except ValueError:
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise InvalidKeyError(
            f"a key of CipherSweet has {_HEX_CHARS} hexadecimal digits or {_BASE64_CHARS} characters of base64url; "
            "give it as the application has it"
        )
    return raw


def _from_hex(text: bytes) -> bytes:
    return bytes.fromhex(text.decode("ascii"))


def _from_base64url(text: bytes) -> bytes:
    raw = urlsafe_b64decode(text)
    if urlsafe_b64encode(raw) != text:
        raise ValueError
    return raw


class _BackEnd(Protocol):
    def opened(self, raw: bytes) -> bytes: ...

    def sealed(self, text: bytes) -> bytes: ...


class _Field:
    def __init__(self, name: str, back_end: _BackEnd) -> None:
        self._head, self._back_end = f"{name}:".encode(), back_end

    def opened(self, stored: bytes) -> bytes:
        if not stored.startswith(self._head):
            raise ClosedError
        try:
            raw = _from_base64url(stored.removeprefix(self._head))
        except ValueError:
            raise ClosedError from None
        text = self._back_end.opened(raw)
        if b"\0" in text or text in _BOOLEANS:
            raise ClosedError
        return text

    def sealed(self, text: bytes) -> bytes:
        return self._head + urlsafe_b64encode(self._back_end.sealed(text))


class _Boring:
    def __init__(self, key: bytes) -> None:
        self._key = hashlib.blake2b(b"message-encryption", key=key, digest_size=_KEY_BYTES).digest()
        self._mac_key = hashlib.blake2b(b"message-integrity", key=key, digest_size=_KEY_BYTES).digest()

    def opened(self, raw: bytes) -> bytes:
        nonce, mac = raw[:_NONCE_BYTES], raw[_NONCE_BYTES : _NONCE_BYTES + _BLAKE_BYTES]
        body = raw[_NONCE_BYTES + _BLAKE_BYTES :]
        if len(mac) != _BLAKE_BYTES or not hmac.compare_digest(mac, self._mac(nonce, body)):
            raise ClosedError
        return self._stream(nonce, body)

    def sealed(self, text: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        body = self._stream(nonce, text)
        return nonce + self._mac(nonce, body) + body

    def _mac(self, nonce: bytes, body: bytes) -> bytes:
        # Lengths are in decimal; there is no associated data.
        signed = b"brng:" + nonce + b"0" + str(len(body)).encode() + body
        return hashlib.blake2b(signed, key=self._mac_key, digest_size=_BLAKE_BYTES).digest()

    def _stream(self, nonce: bytes, text: bytes) -> bytes:
        start = bytes(8) + nonce[_HALF_BYTES:]
        cipher = algorithms.ChaCha20(_hchacha20(self._key, nonce[:_HALF_BYTES]), start)
        return Cipher(cipher, mode=None).encryptor().update(text)


class _Modern:
    def __init__(self, key: bytes) -> None:
        self._key = key

    def opened(self, raw: bytes) -> bytes:
        nonce, body = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
        if len(body) < _TAG_BYTES:
            raise ClosedError
        try:
            return self._cipher(nonce).decrypt(bytes(4) + nonce[_HALF_BYTES:], body, nonce)
        except InvalidTag:
            raise ClosedError from None

    def sealed(self, text: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(nonce).encrypt(bytes(4) + nonce[_HALF_BYTES:], text, nonce)

    def _cipher(self, nonce: bytes) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(_hchacha20(self._key, nonce[:_HALF_BYTES]))


class _Fips:
    def __init__(self, key: bytes) -> None:
        self._key = key

    def opened(self, raw: bytes) -> bytes:
        salt, counter = raw[:_SALT_BYTES], raw[_SALT_BYTES:][:_COUNTER_BYTES]
        mac, body = (
            raw[_SALT_BYTES + _COUNTER_BYTES :][:_SHA384_BYTES],
            raw[_SALT_BYTES + _COUNTER_BYTES :][_SHA384_BYTES:],
        )
        if len(mac) != _SHA384_BYTES or not hmac.compare_digest(mac, self._mac(salt, counter, body)):
            raise ClosedError
        return self._stream(salt, counter, body)

    def sealed(self, text: bytes) -> bytes:
        salt, counter = os.urandom(_SALT_BYTES), os.urandom(_COUNTER_BYTES)
        body = self._stream(salt, counter, text)
        return salt + counter + self._mac(salt, counter, body) + body

    def _mac(self, salt: bytes, counter: bytes, body: bytes) -> bytes:
        parts = (b"fips:", salt, counter, body)
        signed = struct.pack("<I", len(parts)) + b"".join(struct.pack("<Q", len(each)) + each for each in parts)
        return hmac.digest(_hkdf(self._key, salt, b"HMAC-SHA-384"), signed, "sha384")

    def _stream(self, salt: bytes, counter: bytes, text: bytes) -> bytes:
        key = _hkdf(self._key, salt, b"AES-256-CTR")
        return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(text)


def _hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA-384 of RFC 5869; one block has the 32 bytes that are wanted."""
    return hmac.digest(hmac.digest(salt, key, "sha384"), info + b"\x01", "sha384")[:_KEY_BYTES]


def _hchacha20(key: bytes, nonce: bytes) -> bytes:
    """HChaCha20 (draft-irtf-cfrg-xchacha-03): the rounds of ChaCha20 without the addition of the state at their end.

    A block of ChaCha20's key stream has that addition, so what was added is subtracted.
    """
    block = _WORDS.unpack(Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor().update(bytes(_WORDS.size)))
    added = (*_CONSTANTS, *struct.unpack("<4I", nonce))
    words = (each - other & 0xFFFFFFFF for each, other in zip((*block[:4], *block[12:]), added, strict=True))
    return struct.pack("<8I", *words)
