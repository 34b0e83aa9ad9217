"""Recognises values that are JSON objects, of formats that are not re-encrypted here."""

import re
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
        source="cipherstash/encrypt-query-language crates/eql-bindings/src/v3, docs/reference/schema (f99b28c7395b)",
    ),
)
def cipherstash_eql(text: str) -> Recognised | None:
    """Recognises CipherStash's payloads: ``{"v", "i": {"t", "c"}, "c": ciphertext in base85, …}``, with ``"k": "ct"`` before EQL 3.

    A searchable document has ``"k": "sv"``, and ciphertexts in its entries ``sv``.
    """  # noqa: E501  the first line stands in the reference of formats
    payload = _payload(text, '"i"')
    place = payload and payload.get("i")
    if payload is None or not isinstance(place, dict) or not {"t", "c"} <= set(place) or "v" not in payload:
        return None
    if payload.get("k") == "sv" and isinstance(payload.get("sv"), list):
        entries = [each.get("c") if isinstance(each, dict) else None for each in payload["sv"]]
        return Recognised("cipherstash-eql") if entries and all(map(_is_base85, entries)) else None
    return Recognised("cipherstash-eql") if payload.get("k", "ct") == "ct" and _is_base85(payload.get("c")) else None


# As in RFC 1924; an IV and a tag, at least.
_BASE85 = re.compile(r"[0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]{20,}+\Z")


def _is_base85(value: object) -> bool:
    return isinstance(value, str) and _BASE85.match(value) is not None


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
