"""Recognises values of @47ng/cloak."""

import re

from keyrotation_pipeline.fieldcrypto.formats.recogniser import TAG_BYTES, Recognised, from_base64url, in_text

_HEAD = re.compile(r"v1\.aesgcm256\.([0-9a-f]{8})\.[\w-]{16}\.", re.ASCII)


@in_text("cloak-47ng", starts=("v1.aesgcm256.",), behind=r"v[1-9]")
def cloak_47ng(text: str) -> Recognised | None:
    """Recognises @47ng/cloak (prisma-field-encryption): ``v1.aesgcm256.<fingerprint>.<iv>.<ciphertext ‖ tag>``."""
    head = _HEAD.match(text)
    body = from_base64url(text[head.end() :]) if head else None
    return Recognised("cloak-47ng", head[1]) if head and body is not None and len(body) >= TAG_BYTES else None
