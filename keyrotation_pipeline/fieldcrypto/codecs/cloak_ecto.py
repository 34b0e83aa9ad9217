"""Cloak for Elixir: ``0x01 ‖ length of the label ‖ label ‖ nonce ‖ tag ‖ ciphertext``; the label names the key.

AES-256-GCM with a tag of 16 bytes and the associated data ``AES256GCM``. The nonce has the length that the cipher's
`iv_length` says, 12 bytes or 16 (Cloak's default), which no value tells.

Source: Cloak 1.1.4 (Cloak.Ciphers.AES.GCM, Cloak.Tags.Encoder).
"""

import re
import secrets
from collections.abc import Collection

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.codecs.marked import MarkedValue
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES, LONGEST_NAME, AesKey, KeyMaterial

ASSOCIATED_DATA = b"AES256GCM"
BEGINS = b"\x01"
LABEL_PATTERN = rf"[A-Za-z0-9._-]{{1,{LONGEST_NAME}}}"
FIRST_LABEL = "AES.GCM.V1"
_HEAD = re.compile(BEGINS + rb"([\x01-\x64])", re.DOTALL)
_LABEL = re.compile(LABEL_PATTERN.encode())
_NUMBERED = re.compile(r"(.*?)([0-9]{1,6})")


class CloakEctoEnvelope:
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
        sealed = self._layout.taken_apart(value[start:])
        if _LABEL.fullmatch(value, 2, start) is None or sealed is None:
            return None
        return MarkedValue(value[:start].hex().encode(), sealed.nonce, sealed.body)

    def holds_a_value(self, text: bytes, old: MarkedValue) -> bool:  # noqa: ARG002
        """See `Envelope.holds_a_value`."""
        return self.parsed(text) is not None

    def key(self, material: KeyMaterial) -> "CloakEctoKey":
        """See `Envelope.key`."""
        return CloakEctoKey(material, self._layout)

    def generate(self, taken: Collection[str] = ()) -> KeyMaterial:
        """See `Envelope.generate`: the label counts on from the highest one there was."""
        labels = [bytes.fromhex(each)[2:].decode(errors="replace") for each in taken]
        numbered = [(int(found[2]), found[1]) for each in labels if (found := _NUMBERED.fullmatch(each))]
        number, stem = max(numbered, default=(0, FIRST_LABEL[:-1]))
        return AesKey(secrets.token_bytes(KEY_BYTES), f"{stem}{number + 1}")


class CloakEctoKey:
    """`MarkedKey` of 32 bytes and a label."""

    def __init__(self, material: KeyMaterial, layout: Layout) -> None:
        self._prefix = prefix_of(material.name)
        self.marker = self._prefix.hex().encode()
        self._layout = layout
        self._cipher = AESGCM(raw_of(material))

    def opened(self, value: MarkedValue) -> bytes | None:
        """See `MarkedKey.opened`."""
        try:
            return self._cipher.decrypt(value.nonce, value.body, ASSOCIATED_DATA)
        except InvalidTag:
            return None

    def sealed(self, text: bytes, old: MarkedValue) -> bytes:  # noqa: ARG002
        """See `MarkedKey.sealed`."""
        nonce = secrets.token_bytes(self._layout.nonce_bytes)
        return self._prefix + self._layout.put_together(nonce, self._cipher.encrypt(nonce, text, ASSOCIATED_DATA))


def prefix_of(label: str) -> bytes:
    """Returns how every value under a label begins."""
    return BEGINS + bytes([len(label)]) + label.encode()
