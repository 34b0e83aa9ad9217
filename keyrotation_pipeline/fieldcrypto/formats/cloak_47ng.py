"""Recognises @47ng/cloak (prisma-field-encryption): ``v1.aesgcm256.<fingerprint>.<iv>.<ciphertext ‖ tag>``."""

import re

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64url

NAME = "cloak-47ng"
STARTS = ("v1.aesgcm256.",)
_HEAD = re.compile(r"v1\.aesgcm256\.([0-9a-f]{8})\.[\w-]{16}\.", re.ASCII)
TAG_BYTES = 16


def recognise(text: str) -> Recognised | None:
    """Recognises one value; the key is named by its fingerprint."""
    head = _HEAD.match(text)
    body = from_base64url(text[head.end() :]) if head else None
    return Recognised(NAME, head[1]) if head and body is not None and len(body) >= TAG_BYTES else None
