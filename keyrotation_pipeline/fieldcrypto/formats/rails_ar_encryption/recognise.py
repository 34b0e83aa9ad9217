"""Recognises Active Record Encryption."""

from keyrotation_pipeline.fieldcrypto.formats.recogniser import (
    GCM_IV_BYTES,
    TAG_BYTES,
    Recognised,
    base64_size,
    from_base64,
    in_text,
    json_object,
    key_id,
)


@in_text("rails-ar-encryption", starts=("{",), behind=r"\{\"")
def rails_ar_encryption(text: str) -> Recognised | None:
    """Recognises Active Record Encryption: ``{"p": payload, "h": {"iv", "at"[, "i"][, "c"][, "k"]}}``, in base64.

    Source: ActiveRecord::Encryption::MessageSerializer; `store_key_references` writes ``i``, the key's id.
    """
    message = json_object(text) if '"at"' in text and '"iv"' in text else None
    if message is None or set(message) != {"p", "h"} or not isinstance(message["h"], dict):
        return None
    headers = message["h"]
    if base64_size(headers.get("iv")) != GCM_IV_BYTES or base64_size(headers.get("at")) != TAG_BYTES:
        return None
    if message["p"] != "" and base64_size(message["p"]) is None:
        return None
    return Recognised("rails-ar-encryption", _reference(headers.get("i")))


def _reference(encoded: object) -> str | None:
    """Decodes the header ``i``: base64 of four hex digits of the key's SHA-1."""
    raw = from_base64(encoded) if isinstance(encoded, str) else None
    return None if raw is None else key_id(raw.decode("latin-1"))
