"""Recognises the commonest hand-written form of Node: ``iv:tag:ciphertext`` in hex, for AES-GCM.

Nothing but sizes tells it from other hex, so it takes several values whose last part varies in length.
"""

import re

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_hex

NAME = "handmade-hex-colon"
CONTAINS = ":"
_HEAD = re.compile(r"(?:[0-9a-f]{24}|[0-9a-f]{32}):[0-9a-f]{32}:")


def recognise(text: str) -> Recognised | None:
    """Recognises iv12 or iv16, tag16, and a ciphertext of any length."""
    head = _HEAD.match(text)
    if head is None or from_hex(text[head.end() :]) is None:
        return None
    return Recognised(NAME, weak=True, body=bytes.fromhex(text.replace(":", "")))
