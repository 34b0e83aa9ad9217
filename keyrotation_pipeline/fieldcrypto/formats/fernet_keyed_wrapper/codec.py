"""A Fernet token wrapped with the id of its key: ``enc:fernet:<key id>:<base64 of the token>``, as Sentry stores it.

Source: Sentry's EncryptedField (sentry/db/models/fields/encryption).
"""

import os
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Collection

from keyrotation_pipeline.fieldcrypto.codecs.format import Codec
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding, KeyNotation, named_keys
from keyrotation_pipeline.fieldcrypto.codecs.marked import (
    NAME_PATTERN,
    Envelope,
    MarkedFormat,
    MarkedValue,
    next_named,
)
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.fernet.codec import IV_BYTES, TIME_BYTES, FernetKey, encoded
from keyrotation_pipeline.fieldcrypto.formats.fernet.codec import parsed as parsed_token
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

BEGINS = "enc:fernet:"
FIRST_ID = "key1"
# Of which groups: key id, token. That is canonical base64 if its length is divisible by four; of a token, it ends so.
VALUE_PATTERN = rf"enc:fernet:({NAME_PATTERN}):([A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?)"
_VALUE = re.compile(VALUE_PATTERN.encode())


class KeyedWrapperEnvelope(Envelope):
    """`Envelope` for wrapped tokens."""

    def parsed(self, value: bytes) -> MarkedValue | None:
        """See `Envelope.parsed`."""
        match = _VALUE.fullmatch(value)
        token = None if match is None or len(match[2]) % 4 else parsed_token(b64decode(match[2]))
        return None if match is None or token is None else MarkedValue(match[1], b"", token)

    def key(self, material: KeyMaterial) -> "KeyedWrapperKey":
        """See `Envelope.key`."""
        return KeyedWrapperKey(material)

    def generate(self, taken: Collection[str] = ()) -> KeyMaterial:
        """See `Envelope.generate`: the id counts on from the highest one there was."""
        return next_named(taken, FIRST_ID)


class KeyedWrapperKey:
    """`MarkedKey` of a Fernet key and its id."""

    def __init__(self, material: KeyMaterial) -> None:
        self.marker = material.name.encode()
        self._key = FernetKey(material)

    def opened(self, value: MarkedValue) -> bytes | None:
        """See `MarkedKey.opened`."""
        return self._key.opened(value.body)

    def sealed(self, text: bytes, old: MarkedValue) -> bytes:  # noqa: ARG002
        """See `MarkedKey.sealed`; the new token has the present time."""
        stamp = int(time.time()).to_bytes(TIME_BYTES, "big")
        token = encoded(self._key.sealed(text, stamp, os.urandom(IV_BYTES)))
        return b"%b%b:%b" % (BEGINS.encode(), self.marker, b64encode(token))


class _Codec(Codec):
    def format(self, declared: ValueFormat) -> MarkedFormat:  # noqa: ARG002
        return MarkedFormat(KeyedWrapperEnvelope())

    def notation(self, declared: ValueFormat, encoding: KeyEncoding) -> KeyNotation:  # noqa: ARG002
        return named_keys(KeyEncoding.B64URL)


CODEC = _Codec()
