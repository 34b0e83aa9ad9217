"""Recognises sealed objects of @hapi/iron: ``Fe26.2*<id>*<salt>*<iv>*<ciphertext>*<expiry>*<hmac salt>*<hmac>``."""

import re

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64url

NAME = "iron"
STARTS = ("Fe26.",)
_HEX32 = r"[0-9a-f]{64}"
_HEAD = re.compile(
    rf"Fe26\.[12]\*(\w{{0,64}})\*{_HEX32}\*[\w-]{{22}}\*([\w-]++)\*\d{{0,16}}\*{_HEX32}\*[\w-]{{43}}\Z", re.ASCII
)
BLOCK_BYTES = 16


def recognise(text: str) -> Recognised | None:
    """Recognises one sealed object; the id of the password may be empty."""
    whole = _HEAD.match(text)
    body = from_base64url(whole[2]) if whole else None
    return Recognised(NAME, whole[1] or None) if whole and body is not None and len(body) % BLOCK_BYTES == 0 else None
