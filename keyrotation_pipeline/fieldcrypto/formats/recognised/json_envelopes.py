"""Recognises values that are JSON objects, of formats that are not re-encrypted here."""

from typing import Any

from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64, in_text, json_object, key_id
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

# Of one field; searching in longer JSON takes time.
_LONGEST_CHARS = 100_000


def _payload(text: str, mark: str) -> dict[str, Any] | None:
    """Parses a JSON object that contains a mark of its library; None for any other text."""
    return json_object(text) if len(text) < _LONGEST_CHARS and mark in text else None


@in_text(
    "cipherstash-eql",
    starts=("{",),
    advice=Advice(
        identified_by=IdentifiedBy.MARKER,
        steps="CipherStash rotates its keys itself, since ZeroKMS makes one for each value",
        source="cipherstash/encrypt-query-language, examples of EQL 1 and 2; payloads of EQL 3 have no `k`",
    ),
)
def cipherstash_eql(text: str) -> Recognised | None:
    """Recognises CipherStash's payloads of EQL 1 and 2: ``{"v", "k": "ct", "c": ciphertext, "i": {"t", "c"}, …}``."""
    payload = _payload(text, '"ct"')
    if payload is None or payload.get("k") != "ct" or not isinstance(payload.get("c"), str):
        return None
    place = payload.get("i")
    return Recognised("cipherstash-eql") if isinstance(place, dict) and {"t", "c"} <= set(place) else None


@in_text(
    "zitadel",
    starts=("{",),
    advice=Advice(
        identified_by=IdentifiedBy.MARKER,
        steps="list the new key in its configuration, which keeps the older ones, then set every secret again",
        source="zitadel/zitadel internal/crypto/crypto.go (01857b73a800)",
    ),
)
def zitadel(text: str) -> Recognised | None:
    """Recognises ZITADEL's secrets: ``{"CryptoType", "Algorithm": "aes", "KeyID", "Crypted": base64}``."""
    payload = _payload(text, '"Crypted"')
    if payload is None or not {"Algorithm", "KeyID", "Crypted"} <= set(payload):
        return None
    raw = from_base64(payload["Crypted"]) if isinstance(payload["Crypted"], str) else None
    return Recognised("zitadel", key_id(payload["KeyID"])) if raw is not None else None
