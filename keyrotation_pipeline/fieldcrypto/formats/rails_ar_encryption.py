"""Recognises Active Record Encryption: ``{"p": payload, "h": {"iv", "at"[, "i"][, "c"][, "k"]}}``, in base64.

Source: ActiveRecord::Encryption::MessageSerializer; `store_key_references` writes ``i``, the key's id.
"""

from keyrotation_pipeline.fieldcrypto.formats.recogniser import (
    Recognised,
    base64_size,
    from_base64,
    json_object,
    key_id,
)

NAME = "rails-ar-encryption"
STARTS = ("{",)
IV_BYTES, TAG_BYTES = 12, 16


def recognise(text: str) -> Recognised | None:
    """Recognises one message; reports the key that its header references."""
    message = json_object(text) if '"at"' in text and '"iv"' in text else None
    if message is None or set(message) != {"p", "h"} or not isinstance(message["h"], dict):
        return None
    headers = message["h"]
    if base64_size(headers.get("iv")) != IV_BYTES or base64_size(headers.get("at")) != TAG_BYTES:
        return None
    if message["p"] != "" and base64_size(message["p"]) is None:
        return None
    return Recognised(NAME, _reference(headers.get("i")))


def _reference(encoded: object) -> str | None:
    """Decodes the header ``i``: base64 of four hex digits of the key's SHA-1."""
    raw = from_base64(encoded) if isinstance(encoded, str) else None
    return None if raw is None else key_id(raw.decode("latin-1"))
