"""Recognises ciphertext of a transit engine."""

import re

from keyrotation_pipeline.fieldcrypto.formats.recogniser import SHORTEST_GCM_BYTES, Recognised, from_base64, in_text

_HEAD = re.compile(r"vault:(v[1-9][0-9]{0,9}):")


@in_text("vault-transit", starts=("vault:v",), behind="vault:v")
def vault_transit(text: str) -> Recognised | None:
    """Recognises ciphertext of the transit engine of Vault and OpenBao: ``vault:v<N>:<base64>``.

    HMACs and signatures of the engine have the same prefix: a signature is told by its DER; an HMAC has the same length
    in every value, which only a column shows.
    """
    head = _HEAD.match(text)
    raw = from_base64(text[head.end() :]) if head else None
    if head is None or raw is None or len(raw) < SHORTEST_GCM_BYTES or _is_der_signature(raw):
        return None
    return Recognised("vault-transit", head[1], or_hmac=True, body=raw)


def _is_der_signature(raw: bytes) -> bool:
    return raw[0] == 0x30 and raw[1] == len(raw) - 2 and raw[2] == 0x02  # noqa: PLR2004  SEQUENCE, INTEGER
