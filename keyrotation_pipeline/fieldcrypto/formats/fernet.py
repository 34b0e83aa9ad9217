"""Recognises Fernet tokens: base64url of ``0x80 ‖ u64 time ‖ iv16 ‖ AES-128-CBC ‖ HMAC-SHA-256``.

Source: the Fernet specification; django-fernet-fields stores the ASCII token in bytea.
"""

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64url

NAME = "fernet"
STARTS = ("gAAAA",)
VERSION = b"\x80"
# u64 seconds: 2001 to 2106. The first years of Fernet are later, but clocks go wrong.
EARLIEST, LATEST = 1_000_000_000, 1 << 32
# version, time, iv, one block, mac
BLOCK_BYTES = 16
OVERHEAD_BYTES = 1 + 8 + BLOCK_BYTES + 32


def recognise(text: str) -> Recognised | None:
    """Recognises a token."""
    raw = from_base64url(text)
    return Recognised(NAME) if raw is not None and is_token(raw) else None


def is_token(raw: bytes) -> bool:
    """Returns whether bytes are a token that base64url was taken off."""
    blocks, rest = divmod(len(raw) - OVERHEAD_BYTES, BLOCK_BYTES)
    return (
        raw.startswith(VERSION) and blocks >= 1 and rest == 0 and EARLIEST <= int.from_bytes(raw[1:9], "big") < LATEST
    )
