"""@47ng/cloak, which prisma-field-encryption writes: ``v1.aesgcm256.<fingerprint>.<nonce>.<ciphertext ‖ tag>``.

AES-256-GCM with a nonce of 12 bytes and a tag of 16, in padded URL-safe base64. The fingerprint, which is the marker,
is the first eight hex digits of the SHA-256 of the key as the application has it: ``k1.aesgcm256.<base64url of 32 B>``.

Source: @47ng/cloak 1.2.0 (message, key, ciphers/aes-gcm).
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Collection, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.fieldcrypto.codecs.format import Codec
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import (
    KeyEncoding,
    KeyNotation,
    entries_by_commas,
    parsed_or_refused,
)
from keyrotation_pipeline.fieldcrypto.codecs.marked import Envelope, MarkedFormat, MarkedValue
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64, raw_of
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES, KeyMaterial
from keyrotation_pipeline.fieldcrypto.native import CompiledEncoding, CompiledFormat, Nonces

NONCE_BYTES, TAG_BYTES = 12, 16
BEGINS = "v1.aesgcm256."
MARKER_CHARS = 8
KEY_BEGINS = "k1.aesgcm256."
SHORTEST_BODY_CHARS = 24
# Of which groups: marker, nonce, ciphertext and tag. That is canonical base64 if its length is divisible by four.
_BODY = r"[A-Za-z0-9_-]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?"
VALUE_PATTERN = rf"v1\.aesgcm256\.([0-9a-f]{{8}})\.([A-Za-z0-9_-]{{16}})\.({_BODY})"
HEAD_CHARS = len(BEGINS) + MARKER_CHARS + len("..") + 16
_VALUE = re.compile(VALUE_PATTERN.encode())


class CloakEnvelope(Envelope):
    """`Envelope` for @47ng/cloak."""

    def parsed(self, value: bytes) -> MarkedValue | None:
        """See `Envelope.parsed`."""
        match = _VALUE.fullmatch(value)
        if match is None or len(match[3]) % 4 or len(match[3]) < SHORTEST_BODY_CHARS:
            return None
        return MarkedValue(match[1], base64.urlsafe_b64decode(match[2]), base64.urlsafe_b64decode(match[3]))

    def key(self, material: KeyMaterial) -> "CloakKey":
        """See `Envelope.key`."""
        return CloakKey(material)

    def generate(self, taken: Collection[str] = ()) -> KeyMaterial:  # noqa: ARG002
        """See `Envelope.generate`."""
        return KeyMaterial.generate()


class CloakKey:
    """`MarkedKey` of 32 bytes."""

    def __init__(self, material: KeyMaterial) -> None:
        self.marker = hashlib.sha256(key_text(material).encode()).hexdigest()[:MARKER_CHARS].encode()
        self.raw = raw_of(material)
        self._cipher = AESGCM(self.raw)

    def opened(self, value: MarkedValue) -> bytes | None:
        """See `MarkedKey.opened`."""
        try:
            return self._cipher.decrypt(value.nonce, value.body, None)
        except InvalidTag:
            return None

    def sealed(self, text: bytes, old: MarkedValue) -> bytes:  # noqa: ARG002
        """See `MarkedKey.sealed`."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        body = base64.urlsafe_b64encode(self._cipher.encrypt(nonce, text, None))
        return b"%b%b.%b.%b" % (BEGINS.encode(), self.marker, base64.urlsafe_b64encode(nonce), body)


def _key_and_marker(material: KeyMaterial) -> tuple[bytes, bytes]:
    key = CloakKey(material)
    return key.raw, key.marker


_GROUPS = (
    (CompiledEncoding.RAW, b"m", b"."),
    (CompiledEncoding.PADDED_B64URL, b"n", b"."),
    (CompiledEncoding.PADDED_B64URL, b"ct", b""),
)
COMPILED = CompiledFormat(
    "marked", layout=(BEGINS.encode(), NONCE_BYTES, _GROUPS, False, Nonces.RANDOM), key=_key_and_marker
)


def key_text(material: KeyMaterial) -> str:
    """Returns a key as the application has it."""
    return f"{KEY_BEGINS}{base64.urlsafe_b64encode(raw_of(material)).decode()}"


def _listed(text: str, place: str) -> KeyMaterial:
    def parse() -> KeyMaterial | None:
        key = key_from_base64(text.removeprefix(KEY_BEGINS).replace("-", "+").replace("_", "/"))
        return key if text == key_text(key) else None

    return parsed_or_refused(
        parse,
        f"{place} is not a key of @47ng/cloak; write {KEY_BEGINS} and the padded URL-safe base64 of {KEY_BYTES} "
        "bytes, which the fingerprint is of",
    )


def _as_list(keys: Sequence[KeyMaterial]) -> str:
    return ",".join(map(key_text, keys))


class _Codec(Codec):
    def format(self, declared: ValueFormat) -> MarkedFormat:  # noqa: ARG002
        return MarkedFormat(CloakEnvelope(), COMPILED)

    def notation(self, declared: ValueFormat, encoding: KeyEncoding) -> KeyNotation:  # noqa: ARG002
        return KeyNotation(entries_by_commas, _listed, _as_list)


CODEC = _Codec()
