"""Recognises armored OpenPGP messages, as pgcrypto's `armor` and gpg write them."""

from keyrotation_pipeline.fieldcrypto.formats.pgcrypto_pgp import key_of_message
from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64

NAME = "pgcrypto-armor"
_BEGIN, _END = "-----BEGIN PGP MESSAGE-----", "-----END PGP MESSAGE-----"
STARTS = (_BEGIN,)


def recognise(text: str) -> Recognised | None:
    """Recognises one armored message: headers, an empty line, base64, a checksum."""
    body, end, after = text.removeprefix(_BEGIN).replace("\r", "").partition(_END)
    if not end or after.strip():
        return None
    _headers, _, encoded = body.partition("\n\n")
    lines = encoded.split("\n")
    raw = from_base64("".join(line for line in lines if not line.startswith("=")))
    found = key_of_message(raw) if raw is not None else None
    return None if found is None else Recognised(NAME, found or None)
