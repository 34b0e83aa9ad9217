"""Recognises JWE in its compact serialization: five parts of base64url, the first a header with ``enc``.

Source: RFC 7516 section 3.1; RFC 7518 section 5.1 (sizes of iv and tag).
"""

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64url, json_object, key_id

NAME = "jwe"
STARTS = ("ey",)
PARTS = 5
LONGEST_HEADER_CHARS = 16_384
IV_BYTES, TAG_BYTES = (12, 16), (16, 24, 32)


def recognise(text: str) -> Recognised | None:
    """Recognises one object; ``kid`` of its header names the key."""
    if text.count(".") != PARTS - 1:
        return None
    encoded, wrapped_key, *rest = text.split(".")
    names_key = _named_key(encoded)
    iv, body, tag = (from_base64url(part) for part in rest)
    if names_key is None or iv is None or tag is None:
        return None
    if (wrapped_key and from_base64url(wrapped_key) is None) or (rest[1] and body is None):
        return None
    return Recognised(NAME, names_key or None) if len(iv) in IV_BYTES and len(tag) in TAG_BYTES else None


def _named_key(encoded: str) -> str | None:
    """Returns the header's ``kid``, empty if there is none; None if this is no header."""
    header = json_object(from_base64url(encoded)) if len(encoded) <= LONGEST_HEADER_CHARS else None
    if header is None or not isinstance(header.get("enc"), str) or "alg" not in header:
        return None
    return key_id(header.get("kid")) or ""
