"""Recognises Laravel's payloads."""

from keyrotation_pipeline.fieldcrypto.formats.recogniser import (
    BLOCK_BYTES,
    GCM_IV_BYTES,
    TAG_BYTES,
    Recognised,
    base64_size,
    from_base64,
    from_hex,
    in_text,
    json_object,
)

_MAC_BYTES = 32


@in_text("laravel-crypt", starts=("eyJpdiI6", "eyJ2YWx1ZSI6", "eyJtYWMiOi"), behind="eyJ")
def laravel_crypt(text: str) -> Recognised | None:
    """Recognises Laravel's Crypt and its `encrypted` cast: base64 of ``{"iv", "value", "mac", "tag"}``.

    A payload is of a CBC cipher (with mac) or a GCM one (with tag).
    """
    payload = json_object(from_base64(text))
    if payload is None or not {"iv", "value", "mac"} <= set(payload) <= {"iv", "value", "mac", "tag"}:
        return None
    if base64_size(payload["value"]) is None or not isinstance(payload["mac"], str):
        return None
    iv_bytes = base64_size(payload["iv"])
    by_mac = iv_bytes == BLOCK_BYTES and len(from_hex(payload["mac"]) or b"") == _MAC_BYTES
    by_tag = iv_bytes == GCM_IV_BYTES and base64_size(payload.get("tag")) == TAG_BYTES
    return Recognised("laravel-crypt") if by_mac or by_tag else None
