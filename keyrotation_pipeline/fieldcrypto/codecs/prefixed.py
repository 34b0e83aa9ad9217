"""A key of values of bytes that begin with what names it; the marker is this prefix, in hexadecimal digits."""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.codecs.marked import MarkedValue
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial


def split(value: bytes, size: int, layout: Layout) -> MarkedValue | None:
    """Splits a value after its prefix of so many bytes; None: what follows is too short."""
    sealed = layout.taken_apart(value[size:])
    return None if sealed is None else MarkedValue(value[:size].hex().encode(), sealed.nonce, sealed.body)


class PrefixedKey:
    """`MarkedKey` of AES-GCM.

    Args:
        layout: what follows the prefix.
        associated_data: what every value is authenticated with; empty: what it is bound to, if anything.
    """

    def __init__(self, prefix: bytes, material: KeyMaterial, layout: Layout, associated_data: bytes = b"") -> None:
        self.marker = prefix.hex().encode()
        self._prefix, self._layout, self._associated_data = prefix, layout, associated_data
        self._cipher = AESGCM(raw_of(material))

    def opened(self, value: MarkedValue) -> bytes | None:
        """See `MarkedKey.opened`."""
        if not value.nonce:
            return None
        try:
            return self._cipher.decrypt(value.nonce, value.body, self._associated_data or value.bound)
        except InvalidTag:
            return None

    def sealed(self, text: bytes, old: MarkedValue) -> bytes:
        """See `MarkedKey.sealed`."""
        nonce = secrets.token_bytes(self._layout.nonce_bytes)
        body = self._cipher.encrypt(nonce, text, self._associated_data or old.bound)
        return self._prefix + self._layout.put_together(nonce, body)
