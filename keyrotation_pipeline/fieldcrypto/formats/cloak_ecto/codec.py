"""Cloak for Elixir: ``0x01 ‖ length of the label ‖ label ‖ nonce ‖ tag ‖ ciphertext``; the label names the key.

AES-256-GCM with a tag of 16 bytes and the associated data ``AES256GCM``. The nonce has the length that the cipher's
`iv_length` says, 12 bytes or 16 (Cloak's default), which no value tells.

Source: Cloak 1.1.4 (Cloak.Ciphers.AES.GCM, Cloak.Tags.Encoder).
"""

import re
from collections.abc import Collection

from keyrotation_pipeline.fieldcrypto.codecs.format import Codec, layout_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding, KeyNotation, named_keys
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.codecs.marked import (
    NAME_PATTERN,
    Envelope,
    MarkedFormat,
    MarkedValue,
    PrefixedKey,
    next_named,
    split,
)
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

ASSOCIATED_DATA = b"AES256GCM"
BEGINS = b"\x01"
# After the label: the shortest nonce, and a tag.
SHORTEST_BYTES = 28
FIRST_LABEL = "AES.GCM.V1"
_HEAD = re.compile(BEGINS + rb"([\x01-\x64])", re.DOTALL)
_LABEL = re.compile(NAME_PATTERN.encode())


class CloakEctoEnvelope(Envelope):
    """`Envelope` for Cloak.

    Args:
        layout: what follows the label, with the nonce of the application's `iv_length`.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def parsed(self, value: bytes) -> MarkedValue | None:
        """See `Envelope.parsed`."""
        head = _HEAD.match(value)
        if head is None:
            return None
        start = 2 + head[1][0]
        if _LABEL.fullmatch(value, 2, start) is None or len(value) - start < SHORTEST_BYTES:
            return None
        # With another length of nonces than the declared one, a short value is one all the same, which no key opens.
        return split(value, start, self._layout) or MarkedValue(value[:start].hex().encode(), b"", b"")

    def key(self, material: KeyMaterial) -> PrefixedKey:
        """See `Envelope.key`."""
        return PrefixedKey(prefix_of(material.name), material, self._layout, ASSOCIATED_DATA)

    def generate(self, taken: Collection[str] = ()) -> KeyMaterial:
        """See `Envelope.generate`: the label counts on from the highest one there was."""
        return next_named([bytes.fromhex(each)[2:].decode(errors="replace") for each in taken], FIRST_LABEL)


def prefix_of(label: str) -> bytes:
    """Returns how every value under a label begins."""
    return BEGINS + bytes([len(label)]) + label.encode()


class _Codec(Codec):
    def format(self, declared: ValueFormat) -> MarkedFormat:
        return MarkedFormat(CloakEctoEnvelope(layout_of(declared)))

    def notation(self, declared: ValueFormat, encoding: KeyEncoding) -> KeyNotation:  # noqa: ARG002
        return named_keys(KeyEncoding.B64)


CODEC = _Codec()
