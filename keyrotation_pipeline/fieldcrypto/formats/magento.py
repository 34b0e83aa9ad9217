"""Recognises Magento's values: ``<key version>:3:<base64>`` (ChaCha20-Poly1305), ``<key version>:2:<iv>:<base64>``.

Source: the Encryptor of Magento Framework.
"""

import re

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64

NAME = "magento"
STARTS = tuple("0123456789")
# nonce12 and tag16 · blocks of Rijndael-256
SHORTEST_BYTES, BLOCK_BYTES = 28, 32
_HEAD = re.compile(r"(0|[1-9][0-9]?):(?:(3):|2:[!-9;-~]{32}:)")


def recognise(text: str) -> Recognised | None:
    """Recognises one value; the key is named by its number."""
    head = _HEAD.match(text)
    raw = from_base64(text[head.end() :]) if head else None
    if head is None or raw is None:
        return None
    fits = len(raw) >= SHORTEST_BYTES if head[2] else len(raw) % BLOCK_BYTES == 0
    return Recognised(NAME, head[1], weak=True, body=raw) if fits else None
