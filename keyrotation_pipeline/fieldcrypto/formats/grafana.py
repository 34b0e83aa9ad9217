"""Recognises Grafana's secrets: ``#<base64 of the data key's id>#*<base64 of the cipher>*`` before the payload.

Source: pkg/services/secrets/manager, pkg/services/encryption. Values from before 9.0 have no marker.
"""

import re

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64, key_id

NAME = "grafana"
STARTS = (b"#", b"*YWVzL")
# salt8 and the iv16 of AES-CFB, or the nonce12 of AES-GCM
SHORTEST_BYTES = 8 + 12
_HEAD = re.compile(rb"(?:#([A-Za-z0-9+/]{4,180})#)?\*YWVzL(?:WNmYg|Wdjb[Q])\*")


def recognise(raw: bytes) -> Recognised | None:
    """Recognises one value, after its base64."""
    head = _HEAD.match(raw)
    if head is None or len(raw) - head.end() < SHORTEST_BYTES:
        return None
    encoded = (head[1] or b"").decode("ascii")
    name = from_base64(encoded + "=" * (-len(encoded) % 4)) or b""
    return Recognised(NAME, key_id(name.decode("latin-1")))
