"""Recognises n8n's values with key rotation on: ``<key id, a UUID>:<base64>``.

A user's id before a token looks the same, so it takes several values that name few keys.
"""

import re

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64

NAME = "n8n-keyid"
CONTAINS = ":"
SHORTEST_BYTES = 28
_HEAD = re.compile(r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}):")


def recognise(text: str) -> Recognised | None:
    """Recognises one value."""
    head = _HEAD.match(text)
    raw = from_base64(text[head.end() :]) if head else None
    return Recognised(NAME, head[1], weak=True, body=raw) if head and raw and len(raw) >= SHORTEST_BYTES else None
