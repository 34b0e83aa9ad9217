"""Recognises values of n8n."""

import re

from keyrotation_pipeline.fieldcrypto.formats.recogniser import SHORTEST_GCM_BYTES, Recognised, from_base64, in_text

_UUID = re.compile(r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}):")


@in_text("n8n-keyid", contains=":", least=36 + 1 + 40)
def n8n_keyid(text: str) -> Recognised | None:
    """Recognises n8n's values with key rotation on: ``<key id, a UUID>:<base64>``.

    The bytes are ``0x01 ‖ salt32 ‖ tag16 ‖ ciphertext``. Source: packages/core/src/encryption of n8n (14631178d66d).

    A user's id before a token looks the same, so it takes several values that name few keys.
    """
    head = _UUID.match(text)
    raw = from_base64(text[head.end() :]) if head else None
    if head is None or raw is None or len(raw) < SHORTEST_GCM_BYTES:
        return None
    # GCM writes a version, of 1, before its salt.
    return Recognised("n8n-keyid", head[1], weak=True, in_base64=True, body=raw.removeprefix(b"\x01"))
