"""Recognises ciphertext of Tink."""

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, in_bytes

_PREFIX_BYTES = 5
# AES-SIV: 16 bytes of synthetic iv, no tag; AES-GCM: iv12 and tag16
_SHORTEST_BYTES = 17


@in_bytes("tink", starts=(b"\x01",))
def tink(raw: bytes) -> Recognised | None:
    """Recognises Google Tink with the TINK prefix: ``0x01 ‖ u32 key id ‖ iv12 ‖ ciphertext ‖ tag16``.

    Five bytes are little: one key id in nearly all values, and no order in the bytes after it, make them evidence. Key
    ids are decimal, as keysets write them.
    """
    if len(raw) < _PREFIX_BYTES + _SHORTEST_BYTES:
        return None
    key, body = int.from_bytes(raw[1:_PREFIX_BYTES], "big"), raw[_PREFIX_BYTES:]
    return Recognised("tink", str(key), weak=True, body=body)
