"""Recognises Laravel's Crypt and its `encrypted` cast: base64 of ``{"iv", "value", "mac", "tag"}``."""

from keyrotation_pipeline.fieldcrypto.formats.recogniser import (
    Recognised,
    base64_size,
    from_base64,
    from_hex,
    json_object,
)

NAME = "laravel-crypt"
STARTS = ("eyJpdiI6", "eyJ2YWx1ZSI6", "eyJtYWMiOi")
CBC_IV_BYTES, GCM_IV_BYTES, TAG_BYTES, MAC_BYTES = 16, 12, 16, 32


def recognise(text: str) -> Recognised | None:
    """Recognises one payload of a CBC (with mac) or a GCM cipher (with tag)."""
    payload = json_object(from_base64(text))
    if payload is None or not {"iv", "value", "mac"} <= set(payload) <= {"iv", "value", "mac", "tag"}:
        return None
    if base64_size(payload["value"]) is None or not isinstance(payload["mac"], str):
        return None
    iv_bytes = base64_size(payload["iv"])
    by_mac = iv_bytes == CBC_IV_BYTES and len(from_hex(payload["mac"]) or b"") == MAC_BYTES
    by_tag = iv_bytes == GCM_IV_BYTES and base64_size(payload.get("tag")) == TAG_BYTES
    return Recognised(NAME) if by_mac or by_tag else None
