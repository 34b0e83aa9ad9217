"""Recognises CipherSweet's three back ends: ``brng:``, ``nacl:`` and ``fips:`` before base64url."""

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64url

NAMES = ("ciphersweet-brng", "ciphersweet-nacl", "ciphersweet-fips")
STARTS = ("brng:", "nacl:", "fips:")
# nonce24 and tag16 · nonce24 and tag16 · HMAC-SHA-384, HKDF salt and nonce
_SHORTEST_BYTES = {"brng": 24 + 16, "nacl": 24 + 16, "fips": 48 + 32 + 16}


def recognise(text: str) -> Recognised | None:
    """Recognises one value."""
    back_end, _, encoded = text.partition(":")
    shortest, raw = _SHORTEST_BYTES.get(back_end), from_base64url(encoded)
    return Recognised(f"ciphersweet-{back_end}") if shortest and raw is not None and len(raw) >= shortest else None
