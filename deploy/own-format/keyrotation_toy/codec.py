"""Opens and seals values of the toy format, and writes the application's list of keys."""

import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Collection

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.fieldcrypto.codecs.format import Codec
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding, KeyNotation, named_keys
from keyrotation_pipeline.fieldcrypto.codecs.marked import Envelope, MarkedFormat, MarkedValue, next_named
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

PATTERN = r"toy:([A-Za-z0-9._-]{1,100}):([A-Za-z0-9+/]{38,}(?:[AEIMQUYcgkosw048]=|[AQgw]==)?)"
_VALUE = re.compile(PATTERN.encode())


class ToyEnvelope(Envelope):
    """How values are written."""

    def parsed(self, value: bytes) -> MarkedValue | None:
        """Splits a stored value exactly as the library writes it."""
        match = _VALUE.fullmatch(value)
        if match is None or len(match[2]) % 4:
            return None
        raw = b64decode(match[2])
        return MarkedValue(match[1], raw[:12], raw[12:])

    def key(self, material: KeyMaterial) -> "ToyKey":
        """Prepares a key."""
        return ToyKey(material)

    def generate(self, taken: Collection[str] = ()) -> KeyMaterial:
        """Generates a key that the library can be given."""
        return next_named(taken, "key1")


class ToyKey:
    """A key with its name."""

    def __init__(self, material: KeyMaterial) -> None:
        self.marker = material.name.encode()
        self._cipher = AESGCM(raw_of(material))

    def opened(self, value: MarkedValue) -> bytes | None:
        """Returns the plaintext; None: another key has sealed it."""
        try:
            return self._cipher.decrypt(value.nonce, value.body, None)
        except InvalidTag:
            return None

    def sealed(self, text: bytes, old: MarkedValue) -> bytes:  # noqa: ARG002
        """Returns the stored value of a plaintext."""
        nonce = secrets.token_bytes(12)
        return b"toy:%b:%b" % (self.marker, b64encode(nonce + self._cipher.encrypt(nonce, text, None)))


class ToyCodec(Codec):
    """What `codecs.format.Codec` asks for."""

    def format(self, declared: ValueFormat) -> MarkedFormat:  # noqa: ARG002
        """Returns what reads and writes values."""
        return MarkedFormat(ToyEnvelope())

    def notation(self, declared: ValueFormat, encoding: KeyEncoding) -> KeyNotation:  # noqa: ARG002
        """Returns how the list of keys is written."""
        return named_keys(KeyEncoding.B64)


CODEC = ToyCodec()
