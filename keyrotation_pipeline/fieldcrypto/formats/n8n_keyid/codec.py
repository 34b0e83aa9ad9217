"""n8n with key rotation on: ``<key id>:<base64 of 0x01 ‖ salt (32 B) ‖ tag (16 B) ‖ ciphertext>``.

AES-256-GCM. Key and nonce of each value are HKDF-SHA-256 of the key and the salt, so that no nonce repeats under a key.

Source: n8n's `packages/core/src/encryption` (`aes-256-gcm.ts`, format version 1) of September 2026.
"""

import re
import secrets
import uuid
from base64 import b64decode, b64encode
from collections.abc import Collection

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyrotation_pipeline.fieldcrypto.codecs.format import Codec
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding, KeyNotation, named_keys
from keyrotation_pipeline.fieldcrypto.codecs.marked import Envelope, MarkedFormat, MarkedValue
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES, AesKey, KeyMaterial

VERSION = b"\x01"
SALT_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
_HEAD_BYTES = len(VERSION) + SALT_BYTES + TAG_BYTES
SHORTEST_CHARS = (_HEAD_BYTES + 2) // 3 * 4
_INFO = b"n8n-encryption-v1"
KEY_ID_PATTERN = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# Of which groups: key id, the rest, whose first byte is the version. It is canonical base64 if its length is divisible
# by four.
VALUE_PATTERN = rf"({KEY_ID_PATTERN}):(A[Q-Za-f][A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?)"
_VALUE = re.compile(VALUE_PATTERN.encode())


class N8nEnvelope(Envelope):
    """`Envelope` for n8n."""

    def parsed(self, value: bytes) -> MarkedValue | None:
        """See `Envelope.parsed`."""
        match = _VALUE.fullmatch(value)
        if match is None or len(match[2]) % 4 or len(match[2]) < SHORTEST_CHARS:
            return None
        raw = b64decode(match[2])
        head = len(VERSION) + SALT_BYTES
        return MarkedValue(match[1], raw[len(VERSION) : head], raw[_HEAD_BYTES:] + raw[head:_HEAD_BYTES])

    def key(self, material: KeyMaterial) -> "N8nKey":
        """See `Envelope.key`."""
        return N8nKey(material)

    def generate(self, taken: Collection[str] = ()) -> KeyMaterial:  # noqa: ARG002
        """See `Envelope.generate`."""
        return AesKey(secrets.token_bytes(KEY_BYTES), str(uuid.UUID(bytes=secrets.token_bytes(16), version=4)))


class N8nKey:
    """`MarkedKey` with its id."""

    def __init__(self, material: KeyMaterial) -> None:
        self.marker = material.name.encode()
        self._raw = raw_of(material)

    def opened(self, value: MarkedValue) -> bytes | None:
        """See `MarkedKey.opened`."""
        cipher, nonce = self._cipher(value.nonce)
        try:
            return cipher.decrypt(nonce, value.body, None)
        except InvalidTag:
            return None

    def sealed(self, text: bytes, old: MarkedValue) -> bytes:  # noqa: ARG002
        """See `MarkedKey.sealed`."""
        salt = secrets.token_bytes(SALT_BYTES)
        cipher, nonce = self._cipher(salt)
        body = cipher.encrypt(nonce, text, None)
        return b"%b:%b" % (self.marker, b64encode(VERSION + salt + body[-TAG_BYTES:] + body[:-TAG_BYTES]))

    def _cipher(self, salt: bytes) -> tuple[AESGCM, bytes]:
        """Returns the cipher and the nonce of one value."""
        derived = HKDF(SHA256(), KEY_BYTES + NONCE_BYTES, salt=salt, info=_INFO).derive(self._raw)
        return AESGCM(derived[:KEY_BYTES]), derived[KEY_BYTES:]


class _Codec(Codec):
    def format(self, declared: ValueFormat) -> MarkedFormat:  # noqa: ARG002
        return MarkedFormat(N8nEnvelope())

    def notation(self, declared: ValueFormat, encoding: KeyEncoding) -> KeyNotation:  # noqa: ARG002
        return named_keys(KeyEncoding.HEX)


CODEC = _Codec()
