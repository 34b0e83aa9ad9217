"""Recognises ActiveSupport::MessageEncryptor: ``base64--base64--base64`` (ciphertext, iv, tag), or CBC and a signature.

The older form is ``base64(base64 ciphertext--base64 iv)--hex HMAC``. A signed message (MessageVerifier) has two parts,
and the first is none of these.
"""

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64, from_base64url, from_hex

NAME = "rails-message-encryptor"
CONTAINS = "--"
IV_BYTES, TAG_BYTES, BLOCK_BYTES = 12, 16, 16
GCM_PARTS, CBC_PARTS = 3, 2
# SHA-1, SHA-256, SHA-512
DIGEST_BYTES = (20, 32, 64)


def recognise(text: str) -> Recognised | None:
    """Recognises one message."""
    parts = text.split("--", GCM_PARTS)
    if len(parts) == GCM_PARTS:
        sizes = [_size(part) for part in parts]
        return Recognised(NAME) if sizes[0] != 0 and sizes[1:] == [IV_BYTES, TAG_BYTES] else None
    return Recognised(NAME) if len(parts) == CBC_PARTS and _is_signed_cbc(*parts) else None


def _is_signed_cbc(encoded: str, digest: str) -> bool:
    if len(from_hex(digest) or b"") not in DIGEST_BYTES:
        return False
    inner = _decoded(encoded).decode("latin-1").split("--")
    if len(inner) != CBC_PARTS:
        return False
    size, iv_size = map(_size, inner)
    return size > 0 and size % BLOCK_BYTES == 0 and iv_size == BLOCK_BYTES


def _size(part: str) -> int:
    return len(_decoded(part))


def _decoded(part: str) -> bytes:
    return from_base64(part) or from_base64url(part) or b""
