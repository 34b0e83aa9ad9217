"""Recognises ciphertext of the transit engine of Vault and OpenBao: ``vault:v<N>:<base64>``.

HMACs and signatures of the engine have the same prefix: a signature is told by its DER; an HMAC has the same length in
every value, which only a column shows.
"""

import re

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64

NAME = "vault-transit"
STARTS = ("vault:v",)
# nonce12 and tag16 of AES-GCM and ChaCha20-Poly1305
SHORTEST_BYTES = 28
_HEAD = re.compile(r"vault:(v[1-9][0-9]{0,9}):")


def recognise(text: str) -> Recognised | None:
    """Recognises one value, but not a DER signature."""
    head = _HEAD.match(text)
    raw = from_base64(text[head.end() :]) if head else None
    if head is None or raw is None or len(raw) < SHORTEST_BYTES or _is_der_signature(raw):
        return None
    return Recognised(NAME, head[1], body=raw)


def _is_der_signature(raw: bytes) -> bool:
    return raw[0] == 0x30 and raw[1] == len(raw) - 2 and raw[2] == 0x02  # noqa: PLR2004  SEQUENCE, INTEGER
