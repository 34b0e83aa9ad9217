"""Recognises Fernet tokens."""

from keyrotation_pipeline.fieldcrypto.formats.recogniser import BLOCK_BYTES, Recognised, from_base64url, in_text

VERSION = b"\x80"
# u64 seconds: 2001 to 2106. The first years of Fernet are later, but clocks go wrong.
_EARLIEST, _LATEST = 1_000_000_000, 1 << 32
# version, time, iv, mac
_OVERHEAD_BYTES = 1 + 8 + BLOCK_BYTES + 32


@in_text("fernet", starts=("gAAAA",), behind="gAAAA")
def fernet(text: str) -> Recognised | None:
    """Recognises Fernet tokens: base64url of ``0x80 ‖ u64 time ‖ iv16 ‖ AES-128-CBC ‖ HMAC-SHA-256``.

    Source: the Fernet specification; django-fernet-fields stores the ASCII token in bytea.
    """
    raw = from_base64url(text)
    return Recognised("fernet") if raw is not None and is_fernet(raw) else None


def is_fernet(raw: bytes) -> bool:
    """Returns whether bytes are a token that base64url was taken off."""
    blocks, rest = divmod(len(raw) - _OVERHEAD_BYTES, BLOCK_BYTES)
    is_timed = _EARLIEST <= int.from_bytes(raw[1:9], "big") < _LATEST
    return raw.startswith(VERSION) and blocks >= 1 and rest == 0 and is_timed
