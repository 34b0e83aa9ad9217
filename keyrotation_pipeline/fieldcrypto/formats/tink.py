"""Recognises Google Tink with the TINK prefix: ``0x01 ‖ u32 key id ‖ iv12 ‖ ciphertext ‖ tag16``.

Five bytes are little: one key id in nearly all values, and no order in the bytes after it, make them evidence.
"""

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised

NAME = "tink"
STARTS = (b"\x01",)
PREFIX_BYTES = 5
# AES-SIV: 16 bytes of synthetic iv, no tag; AES-GCM: iv12 and tag16
SHORTEST_BODY_BYTES = 17


def recognise(raw: bytes) -> Recognised | None:
    """Recognises one value; key ids are decimal, as keysets write them."""
    if len(raw) < PREFIX_BYTES + SHORTEST_BODY_BYTES or raw[0] != 1:
        return None
    return Recognised(NAME, str(int.from_bytes(raw[1:PREFIX_BYTES], "big")), weak=True, body=raw[PREFIX_BYTES:])
