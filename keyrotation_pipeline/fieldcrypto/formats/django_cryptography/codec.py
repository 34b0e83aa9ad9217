"""Opens and seals the values of django-cryptography's `encrypt(field)`.

Bytes as of a Fernet token: ``0x80``, time (8), IV (16), AES-256-CBC, HMAC-SHA256. The MAC's key is SECRET_KEY itself,
the other one PBKDF2-SHA256 of CRYPTOGRAPHY_KEY, or else of SECRET_KEY. Encrypted is Python's pickle of what the field
holds. Nothing is ever unpickled: `pickletools` lists the instructions, and only the one that is a text, or bytes, is
taken. So dates, numbers and objects stay closed.
"""

import hashlib
import hmac
import os
import pickletools
import time
from collections.abc import Mapping

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.block_padding import padded, unpadded
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source
from keyrotation_pipeline.fieldcrypto.formats.django_cryptography import BOTH

_HEAD, _TIME_BYTES, _IV_BYTES, _MAC_BYTES, _KEY_BYTES = b"\x80", 8, 16, 32, 32
_SALT, _ROUNDS = b"django-cryptography", 30_000
_BODY = len(_HEAD) + _TIME_BYTES + _IV_BYTES
_TEXTS = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"})
# What stands around the one value: of the protocol, and for values that refer to it, of which there are none.
_AROUND = frozenset({"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"})


def source(name: str, key: bytes, options: Mapping[str, str]) -> Source:  # noqa: ARG001  there is one
    """Returns what opens and seals values under the application's settings.

    Raises:
        InvalidKeyError: they are not exactly two, where two are named.
    """
    secret, colon, own = key.partition(b":")
    if options["key_of"] != BOTH:
        return _FernetBytes(key, key)
    if not colon or not secret or not own or b":" in own:
        raise InvalidKeyError(f"give SECRET_KEY:{BOTH}, with one colon; a setting with a colon cannot be given yet")
    return _FernetBytes(secret, own)


class _FernetBytes:
    def __init__(self, secret: bytes, encrypting: bytes) -> None:
        self._secret = secret
        self._key = algorithms.AES(hashlib.pbkdf2_hmac("sha256", encrypting, _SALT, _ROUNDS, _KEY_BYTES))

    def opened(self, stored: bytes) -> bytes:
        signed, mac = stored[:-_MAC_BYTES], stored[-_MAC_BYTES:]
        iv, body = signed[_BODY - _IV_BYTES : _BODY], signed[_BODY:]
        if not signed.startswith(_HEAD) or not hmac.compare_digest(mac, self._mac(signed)):
            raise ClosedError
        if not body or len(body) % _IV_BYTES:
            raise ClosedError
        decryptor = Cipher(self._key, modes.CBC(iv)).decryptor()
        return _text_in(unpadded(decryptor.update(body) + decryptor.finalize()))

    def sealed(self, text: bytes) -> bytes:
        iv = os.urandom(_IV_BYTES)
        encryptor = Cipher(self._key, modes.CBC(iv)).encryptor()
        body = encryptor.update(padded(_pickled(text))) + encryptor.finalize()
        signed = _HEAD + int(time.time()).to_bytes(_TIME_BYTES, "big") + iv + body
        return signed + self._mac(signed)

    def _mac(self, signed: bytes) -> bytes:
        return hmac.digest(self._secret, signed, "sha256")


def _text_in(pickled: bytes) -> bytes:
    """Returns the text, or the bytes, that a pickle consists of.

    Raises:
        ClosedError: it is anything else, or more.
    """
    texts, end = list[object](), 0
    try:
        for instruction, argument, at in pickletools.genops(pickled):
            end = at or 0
            if instruction.name in _TEXTS:
                texts.append(argument)
            elif instruction.name not in _AROUND:
                raise ClosedError
        found = texts[0].encode() if isinstance(texts[0], str) else texts[0]
    except (ValueError, IndexError):
        raise ClosedError from None
    if len(texts) != 1 or end != len(pickled) - 1 or not isinstance(found, bytes):
        raise ClosedError
    return found


def _pickled(text: bytes) -> bytes:
    """Returns the pickle of a text in UTF-8, in protocol 3, which every Python 3 reads."""
    return b"\x80\x03X" + len(text).to_bytes(4, "little") + text + b"."
